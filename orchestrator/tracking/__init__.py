"""MLflow tracking: writes sweeps to MLflow and reads earlier ones. Only this room imports MLflow."""
