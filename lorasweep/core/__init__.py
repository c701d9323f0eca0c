"""Values used by all packages: specs, results, messages, errors, files."""
