"""Location of a sweep's MLflow store, and the names that sweeps have there."""

from pathlib import Path

EXPERIMENT = "lethe"
"""MLflow experiment of all sweeps: MLflow compares runs within one experiment."""


VIEW_FILE = "mlflow_view.json"
"""File in the sweep's folder that holds the path of its saved view in MLflow's UI."""


def default_tracking_uri(root: Path) -> str:
    """Returns the URI of the SQLite file in a storage root, which all sweeps there share."""
    return f"sqlite:///{root / 'mlflow.db'}"
