"""Connects to MLflow: a client with short timeouts, its exceptions, and the creation of a SQLite store."""

import os
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

if TYPE_CHECKING:
    from mlflow import MlflowClient


def new_client(uri: str) -> "MlflowClient":
    """Creates a client of a tracking server or store, with short timeouts and without telemetry.

    Args:
        uri: Tracking server, or database URI such as `sqlite:////path/mlflow.db`.
    """
    # MLflow reads these variables at import or at its first request, so they are set before the import below.
    # Usage statistics are sent only if the user has enabled them. An unreachable server fails after seconds
    # instead of the four minutes of MLflow's defaults, because the next call tries again anyway.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def failures_of_mlflow() -> tuple[type[Exception], ...]:
    """Returns the exceptions that MLflow raises when it is unreachable or refuses a request."""
    # MLflow passes on the exceptions of its HTTP library and of its database layer.
    import requests
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    return MlflowException, requests.RequestException, sqlalchemy.exc.SQLAlchemyError, OSError


def version_of_ui(uri: str) -> str:
    """Returns the version of the MLflow whose UI shows a store.

    This is the server's version, or for a database the version that is installed here.

    Returns:
        A version such as `3.17.2`; `hosted` for Databricks; `unknown` if a server does not answer.
    """
    if uri.startswith("databricks"):
        return "hosted"
    if not uri.startswith("http"):
        return metadata.version("mlflow")
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    # MLflow's own request function uses the user's credentials, certificates and timeouts.
    answer = http_request(get_default_host_creds(uri), "/version", "GET", raise_on_status=False)
    return answer.text.strip()[:20] if answer.status_code == 200 else "unknown"


def create_database(uri: str) -> None:
    """Creates a missing SQLite store atomically.

    MLflow's migrations take seconds, and MLflow refuses a store in which they were interrupted. The store is
    therefore created under another name and renamed when it is complete.
    """
    if not uri.startswith("sqlite:///") or ":memory:" in uri:
        return
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two sweeps may start at the same time in an empty folder: the second one waits here.
    with FileLock(f"{path}.lock"):
        if path.exists():
            return
        partial = path.with_name(f"{path.name}.partial")
        partial.unlink(missing_ok=True)
        # The first request to a store runs the migrations.
        new_client(f"sqlite:///{partial}").search_experiments()
        partial.rename(path)
