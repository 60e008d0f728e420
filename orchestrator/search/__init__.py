"""The search: the Optuna study, samplers, early stopping and budgets. Only this room imports Optuna."""
