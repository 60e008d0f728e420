"""Reads an earlier sweep from MLflow: settings, provenance and trials; adds metrics to ended runs."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from orchestrator.storage.provenance import redacted
from orchestrator.storage.trial_records import Status, TrialRecord
from orchestrator.tracking.mlflow_client import failures_of_mlflow, new_client
from orchestrator.tracking.saved_view import KIND
from orchestrator.tracking.system_metrics import SYSTEM
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KEY = "--tracking-uri"
WARM_START_KEY = "search.warm_start"
SETTINGS_FILE = "sweep.json"


@dataclass(frozen=True)
class TrackedSweep:
    """Settings and tags of a sweep's parent run."""

    settings: SweepSettings
    tags: Mapping[str, str]
    """Tags of the parent run: versions and git state (`provenance.provenance`), and `lethe.data_digest`."""


@contextmanager
def readable_store(uri: str, key: str = KEY) -> "Iterator[MlflowClient]":
    """Opens a client of an existing store; failures of MLflow become user errors that name `key`.

    Raises:
        UserError: The server is unreachable or refuses, or the database does not exist.
    """
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///").partition("?")[0]).is_file():
        # Connecting to a missing SQLite file would create an empty store.
        raise UserError(
            "there is no such MLflow database",
            key=key,
            value=redacted(uri),
            remedy="give the store that the sweep wrote to",
        )
    try:
        yield new_client(uri)
    except failures_of_mlflow() as error:
        # Not chained: tracebacks of database drivers contain the URI with its password.
        raise UserError(
            redacted(f"MLflow cannot be read: {error}"), key=key, value=redacted(uri), remedy="is it up?"
        ) from None


def find_parent(
    client: "MlflowClient",
    uri: str,
    experiment: str,
    sweep_name: str,
    identity: str | None = None,
    *,
    key: str = "SWEEP",
    given: str | None = None,
) -> "Run":
    """Finds the newest parent run of a sweep.

    Args:
        client: Client of the store.
        uri: URI of the store, for messages.
        experiment: MLflow experiment of all sweeps.
        sweep_name: Name of the sweep.
        identity: Value of the tag `lethe.sweep_id`, which distinguishes sweeps of the same name. By default
            the newest sweep of that name is used.
        key: The argument or setting that named the sweep, for messages.
        given: The value of `key`, if it is not the plain name.

    Raises:
        UserError: The store has no such sweep.
    """
    found = client.get_experiment_by_name(experiment)
    # Child runs have the tag `lethe.sweep` too; only the parent run has the sweep's name.
    wanted = f"tags.`lethe.sweep` = '{sweep_name}' and attributes.run_name = '{sweep_name}'"
    wanted += f" and tags.`lethe.sweep_id` = '{identity}'" if identity else ""
    parents = [] if found is None else client.search_runs([found.experiment_id], wanted, max_results=1)
    if not parents:
        remedy = f"look for it in experiment {experiment!r} at {redacted(uri)}"
        raise UserError("MLflow has no sweep of this name", key=key, value=given or sweep_name, remedy=remedy)
    return parents[0]


def read_tracked_sweep(
    uri: str, experiment: str, sweep_name: str, identity: str | None = None
) -> TrackedSweep:
    """Reads the settings and the provenance of a sweep; the arguments are those of `find_parent`.

    Raises:
        UserError: The server is unreachable, has no such sweep, or another version of Lethe wrote it.
    """
    with readable_store(uri) as client, tempfile.TemporaryDirectory() as folder:
        parent = find_parent(client, uri, experiment, sweep_name, identity)
        # Parameters of the run are shortened; the artifact has the settings in full.
        written = Path(client.download_artifacts(parent.info.run_id, SETTINGS_FILE, folder)).read_text()
    try:
        return TrackedSweep(SweepSettings.model_validate_json(written), dict(parent.data.tags))
    except ValidationError as error:
        remedy = "reproduce it with the version of Lethe that wrote it"
        raise UserError(
            "this sweep was written by another version of Lethe", key="SWEEP", value=sweep_name, remedy=remedy
        ) from error


def read_tracked_trials(uri: str, experiment: str, sweep_name: str) -> list[TrialRecord]:
    """Reads the trials of the newest sweep of a name, from the child runs of its parent run.

    Args:
        uri: Tracking server or store.
        experiment: MLflow experiment of all sweeps.
        sweep_name: Name of the sweep.

    Returns:
        Ended trials in the order of their numbers, with their parameters and the metrics of every rung.

    Raises:
        UserError: The server is unreachable, or has no such sweep.
    """
    with readable_store(uri, WARM_START_KEY) as client:
        parent = find_parent(
            client, uri, experiment, sweep_name, key=WARM_START_KEY, given=f"mlflow:{sweep_name}"
        )
        children = _children(client, parent.info.experiment_id, parent.info.run_id)
        ended = (_record(client, run) for run in children if run.info.status != "RUNNING")
        return sorted(ended, key=lambda record: record.number)


def _children(client: "MlflowClient", experiment_id: str, parent: str) -> "list[Run]":
    runs: list[Run] = []
    token = None
    while True:
        # Confirmations and audits are child runs too, and have other kinds.
        page = client.search_runs([experiment_id], f"tags.mlflow.parentRunId = '{parent}'", page_token=token)
        runs += [run for run in page if run.data.tags.get(KIND) == "trial"]
        token = page.token
        if not token:
            return runs


def _record(client: "MlflowClient", run: "Run") -> TrialRecord:
    name = run.data.tags["lethe.trial"]
    rungs: dict[int, dict[str, float]] = {}
    for key in run.data.metrics:
        # Steps of system metrics are numbers of samples, not rungs.
        if key.startswith(SYSTEM):
            continue
        # A run holds only the newest value of each metric; the earlier rungs are in its history.
        for metric in client.get_metric_history(run.info.run_id, key):
            rungs.setdefault(metric.step, {})[key] = metric.value
    ordered = [rungs[step] for step in sorted(rungs)]
    return TrialRecord(
        trial_id=name,
        number=int(name[1:]),
        status=cast(Status, run.data.tags.get("status", "failed")),
        params={key: _plain(value) for key, value in run.data.params.items()},
        metrics=ordered[-1] if ordered else {},
        rungs=ordered,
        reason=run.data.tags.get("reason"),
    )


def _plain(text: str) -> Any:
    """Parses a parameter's value, which MLflow stores as text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def add_metrics(uri: str, run_id: str, metrics: Mapping[str, float]) -> None:
    """Logs metrics to an existing run.

    Args:
        uri: URI of the store.
        run_id: Id of the trial's run.
        metrics: Name -> value.

    Raises:
        UserError: The store is unreachable, or has no such run.
    """
    from mlflow.entities import Metric

    with readable_store(uri) as client:
        # Dated at the end of the run, whose model they describe.
        when = client.get_run(run_id).info.end_time or 0
        client.log_batch(run_id, metrics=[Metric(name, value, when, 0) for name, value in metrics.items()])
