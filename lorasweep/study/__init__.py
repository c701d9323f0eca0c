"""The Optuna study: which trials run, which stop early, and their results."""
