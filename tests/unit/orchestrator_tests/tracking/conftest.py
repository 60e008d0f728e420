"""A real MLflow store for the tests of each module, and trackers that write to it."""

import pytest

from tests.support.mlflow_store import new_store
from tests.support.tracked_runs import tracker


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One real SQLite store for all tests: sweeps are distinguished by their identity."""
    folder = new_store(tmp_path_factory)
    return f"sqlite:///{folder}/mlflow.db", folder / "artifacts"


@pytest.fixture
def start(store, request):
    """Starts a driver of this test's sweep: each call is a new process as far as the tracker can tell."""
    return lambda: tracker(*store, request.node.name)


@pytest.fixture
def client(store):
    # Every worker loads this file, and only one of them needs MLflow.
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store[0])
