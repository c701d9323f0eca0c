"""Train, evaluate and checkpoint the trials of one device. Imports neither Optuna nor MLflow."""
