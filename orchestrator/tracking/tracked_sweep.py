"""An earlier sweep as MLflow holds it: its settings and origins, its trials, and metrics that are added to a run after its end."""

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
    """What the parent run says."""

    settings: SweepSettings
    tags: Mapping[str, str]
    """Versions and git state as `orchestrator.storage.provenance.provenance` gives them, and `lethe.data_digest`."""


@contextmanager
def readable_store(uri: str, key: str = KEY) -> "Iterator[MlflowClient]":
    """A client of a store that exists; its failures become user errors that name `key`.

    Raises:
        UserError: The server is away or refuses, or there is no such database.
    """
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///").partition("?")[0]).is_file():
        # Connecting would make an empty one.
        raise UserError("there is no such MLflow database", key=key, value=redacted(uri), remedy="give the store that the sweep wrote to")
    try:
        yield new_client(uri)
    except failures_of_mlflow() as error:
        # Not chained: tracebacks of database drivers quote the URI with its password.
        raise UserError(redacted(f"MLflow cannot be read: {error}"), key=key, value=redacted(uri), remedy="is it up?") from None


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
    """The newest parent run of a sweep.

    Args:
        client: Of the store.
        uri: Of the store, for messages.
        experiment: MLflow experiment of all sweeps.
        sweep_name: Name of the sweep.
        identity: What tells the sweep from others of its name; the newest of the name when left out.
        key: Which argument or setting named the sweep, for messages.
        given: Its value, where that is not the name alone.

    Raises:
        UserError: There is none.
    """
    found = client.get_experiment_by_name(experiment)
    wanted = f"tags.`lethe.sweep` = '{sweep_name}' and attributes.run_name = '{sweep_name}'"
    wanted += f" and tags.`lethe.sweep_id` = '{identity}'" if identity else ""
    parents = [] if found is None else client.search_runs([found.experiment_id], wanted, max_results=1)
    if not parents:
        remedy = f"look for it in experiment {experiment!r} at {redacted(uri)}"
        raise UserError("MLflow knows no sweep of this name", key=key, value=given or sweep_name, remedy=remedy)
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


def read_tracked_trials(uri: str, experiment: str, sweep_name: str) -> list[TrialRecord]:
    """The child runs of the newest parent run of a sweep, in the order of their numbers.

    Args:
        uri: Tracking server or store.
        experiment: MLflow experiment of all sweeps.
        sweep_name: Name of the sweep.

    Returns:
        Trials with their parameters and the metrics of every rung; running ones are left out.

    Raises:
        UserError: The server is away, or knows no such sweep.
    """
    with readable_store(uri, WARM_START_KEY) as client:
        parent = find_parent(client, uri, experiment, sweep_name, key=WARM_START_KEY, given=f"mlflow:{sweep_name}")
        children = _children(client, parent.info.experiment_id, parent.info.run_id)
        ended = (_record(client, run) for run in children if run.info.status != "RUNNING")
        return sorted(ended, key=lambda record: record.number)


def _children(client: "MlflowClient", experiment_id: str, parent: str) -> "list[Run]":
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], f"tags.mlflow.parentRunId = '{parent}'", page_token=token)
        runs += [run for run in page if run.data.tags.get(KIND) == "trial"]
        token = page.token
        if not token:
            return runs


def _record(client: "MlflowClient", run: "Run") -> TrialRecord:
    name = run.data.tags["lethe.trial"]
    rungs: dict[int, dict[str, float]] = {}
    for key in run.data.metrics:
        if key.startswith(SYSTEM):
            continue  # its steps are no rungs
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
    """A parameter's value: MLflow keeps text only."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def add_metrics(uri: str, run_id: str, metrics: Mapping[str, float]) -> None:
    """Log metrics to a run that is there.

    Args:
        uri: Of the store.
        run_id: Of the trial's run.
        metrics: By name.

    Raises:
        UserError: The store is away, or has no such run.
    """
    from mlflow.entities import Metric

    with readable_store(uri) as client:
        when = client.get_run(run_id).info.end_time or 0
        client.log_batch(run_id, metrics=[Metric(name, value, when, 0) for name, value in metrics.items()])
