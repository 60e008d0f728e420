"""Connecting to MLflow: a client that gives up soon, what it raises, and a store that is created whole."""

import os
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

if TYPE_CHECKING:
    from mlflow import MlflowClient


def new_client(uri: str) -> "MlflowClient":
    """A client of a tracking server or store that gives up soon and tells nobody about it."""
    # MLflow reads these at import or at its first request. No usage statistics leave the machine unless
    # somebody asks for them, and a server that is away is given up after seconds, not after the four minutes
    # of MLflow's default: the next call tries again.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def failures_of_mlflow() -> tuple[type[Exception], ...]:
    """What MLflow raises when it is away or refuses."""
    import requests
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    return MlflowException, requests.RequestException, sqlalchemy.exc.SQLAlchemyError, OSError


def version_of_ui(uri: str) -> str:
    """Version of the MLflow whose UI will show a store: the server's, or for a bare database the one
    installed here.

    Returns:
        Such as `3.17.2`; other words where a server does not say.
    """
    if uri.startswith("databricks"):
        return "hosted"
    if not uri.startswith("http"):
        return metadata.version("mlflow")
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    # MLflow's own request: it has the user's credentials, certificates and timeouts.
    answer = http_request(get_default_host_creds(uri), "/version", "GET", raise_on_status=False)
    return answer.text.strip()[:20] if answer.status_code == 200 else "unknown"


def create_database(uri: str) -> None:
    """Create a missing SQLite store whole: a kill in the middle of MLflow's migrations (seconds) would leave
    one that it refuses."""
    if not uri.startswith("sqlite:///") or ":memory:" in uri:
        return
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    # Held while another driver creates it, so that two first sweeps in one folder do not race.
    with FileLock(f"{path}.lock"):
        if path.exists():
            return
        partial = path.with_name(f"{path.name}.partial")
        partial.unlink(missing_ok=True)
        new_client(f"sqlite:///{partial}").search_experiments()
        partial.rename(path)
