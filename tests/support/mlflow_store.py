"""Empty MLflow stores for test files: MLflow takes seconds to make one, so the first is copied."""

import shutil

from orchestrator.tracking.mlflow_client import create_database


def first_store(factory):
    """The folder of a store that was made where a driver had been killed in the middle of making one; not to
    be written to."""
    folder = factory.getbasetemp() / "first-mlflow-store"
    if not folder.exists():
        folder.mkdir()
        (folder / "mlflow.db.partial").write_text("half a database")
        create_database(f"sqlite:///{folder}/mlflow.db")
    return folder


def new_store(factory):
    """A folder with an empty store, `mlflow.db`."""
    folder = factory.mktemp("mlflow")
    shutil.copy(first_store(factory) / "mlflow.db", folder)
    return folder
