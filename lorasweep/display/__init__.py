"""The terminal output of a running sweep."""
