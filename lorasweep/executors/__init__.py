"""Where workers run. Every executor passes the same tests."""
