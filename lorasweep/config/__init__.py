"""YAML files and overrides become checked settings and a search space."""
