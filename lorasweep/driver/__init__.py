"""The loop that gives trials to workers and records their results."""
