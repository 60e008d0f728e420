"""The only place that knows MLflow: writing a sweep to it, and reading an earlier one from it."""
