"""Turn YAML files and overrides into checked settings and a search space."""
