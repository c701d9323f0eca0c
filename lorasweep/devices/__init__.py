"""Which hardware is there, and what is free on it."""
