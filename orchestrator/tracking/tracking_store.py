"""Where a sweep's MLflow store is, and what it is called there."""

from pathlib import Path

EXPERIMENT = "lethe"
"""MLflow experiment of all sweeps, so that they can be compared."""


VIEW_FILE = "mlflow_view.json"
"""In the sweep's folder: where MLflow's saved view of it is."""


def default_tracking_uri(root: Path) -> str:
    """A SQLite file beside the sweeps of a storage root, shared by all of them."""
    return f"sqlite:///{root / 'mlflow.db'}"
