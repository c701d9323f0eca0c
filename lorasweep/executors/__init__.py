"""Executors run workers. All pass the same tests."""
