"""A sweep's parent run as MLflow holds it: settings and origins, for whoever wants to run one of its trials again."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from orchestrator.storage.provenance import redacted
from orchestrator.tracking.mlflow_client import failures_of_mlflow, new_client
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KEY = "--tracking-uri"
SETTINGS_FILE = "sweep.json"


@dataclass(frozen=True)
class TrackedSweep:
    """What the parent run says."""

    settings: SweepSettings
    tags: Mapping[str, str]
    """Versions and git state as `orchestrator.storage.provenance.provenance` gives them, and `lethe.data_digest`."""


@contextmanager
def readable_store(uri: str) -> "Iterator[MlflowClient]":
    """A client of a store that exists; its failures become user errors.

    Raises:
        UserError: The server is away or refuses, or there is no such database.
    """
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///").partition("?")[0]).is_file():
        # Connecting would make an empty one.
        raise UserError("there is no such MLflow database", key=KEY, value=redacted(uri), remedy="give the store that the sweep wrote to")
    try:
        yield new_client(uri)
    except failures_of_mlflow() as error:
        # Not chained: tracebacks of database drivers quote the URI with its password.
        raise UserError(redacted(f"MLflow cannot be read: {error}"), key=KEY, value=redacted(uri), remedy="is it up?") from None


def find_parent(client: "MlflowClient", uri: str, experiment: str, sweep_name: str, identity: str | None = None) -> "Run":
    """The newest parent run of a sweep.

    Args:
        client: Of the store.
        uri: Of the store, for messages.
        experiment: MLflow experiment of all sweeps.
        sweep_name: Name of the sweep.
        identity: What tells the sweep from others of its name; the newest of the name when left out.

    Raises:
        UserError: There is none.
    """
    found = client.get_experiment_by_name(experiment)
    wanted = f"tags.`lethe.sweep` = '{sweep_name}' and attributes.run_name = '{sweep_name}'"
    wanted += f" and tags.`lethe.sweep_id` = '{identity}'" if identity else ""
    parents = [] if found is None else client.search_runs([found.experiment_id], wanted, max_results=1)
    if not parents:
        remedy = f"look for it in experiment {experiment!r} at {redacted(uri)}"
        raise UserError("MLflow knows no sweep of this name", key="SWEEP", value=sweep_name, remedy=remedy)
    return parents[0]


def read_tracked_sweep(uri: str, experiment: str, sweep_name: str, identity: str | None = None) -> TrackedSweep:
    """Settings and origins of a sweep; arguments as in `find_parent`.

    Raises:
        UserError: The server is away, knows no such sweep, or another version of Lethe wrote it.
    """
    with readable_store(uri) as client, tempfile.TemporaryDirectory() as folder:
        parent = find_parent(client, uri, experiment, sweep_name, identity)
        written = Path(client.download_artifacts(parent.info.run_id, SETTINGS_FILE, folder)).read_text()
    try:
        return TrackedSweep(SweepSettings.model_validate_json(written), dict(parent.data.tags))
    except ValidationError as error:
        remedy = "reproduce it with the version of Lethe that wrote it"
        raise UserError("this sweep was written by another version of Lethe", key="SWEEP", value=sweep_name, remedy=remedy) from error
