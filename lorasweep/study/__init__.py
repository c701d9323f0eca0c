"""Optuna: what to try next, what to stop, what was learned."""
