"""Train, evaluate and checkpoint the trials that one device was given. Knows neither Optuna nor MLflow."""
