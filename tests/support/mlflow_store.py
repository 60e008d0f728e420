"""Empty MLflow stores for tests: MLflow takes seconds to make one, so each run makes one and copies it."""

import shutil

from orchestrator.tracking.mlflow_client import create_database
from tests.support.shared_cache import made_once


def first_store(factory):
    """The folder of a store that was made where a driver had been killed in the middle of making one; not to
    be written to."""

    def make(folder):
        (folder / "mlflow.db.partial").write_text("half a database")
        create_database(f"sqlite:///{folder}/mlflow.db")

    return made_once(factory, "first-mlflow-store", make)


def new_store(factory):
    """A folder with an empty store, `mlflow.db`."""
    folder = factory.mktemp("mlflow")
    shutil.copy(first_store(factory) / "mlflow.db", folder)
    return folder
