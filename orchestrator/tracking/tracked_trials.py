"""Trials of an earlier sweep as MLflow holds them: what a warm start learns from when the sweep's folder is gone."""

import json
from typing import TYPE_CHECKING, Any, cast

from orchestrator.storage.provenance import redacted
from orchestrator.storage.trial_records import Status, TrialRecord
from orchestrator.tracking.mlflow_client import failures_of_mlflow, new_client
from orchestrator.tracking.saved_view import KIND
from orchestrator.tracking.system_metrics import SYSTEM
from search_spaces.user_errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KEY = "search.warm_start"


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
    try:
        client = new_client(uri)
        found = client.get_experiment_by_name(experiment)
        filter_string = f"tags.`lethe.sweep` = '{sweep_name}' and attributes.run_name = '{sweep_name}'"
        parents = [] if found is None else client.search_runs([found.experiment_id], filter_string, max_results=1)
        if found is None or not parents:
            raise UserError(
                "MLflow knows no sweep of this name",
                key=KEY,
                value=f"mlflow:{sweep_name}",
                remedy=f"look for it in experiment {experiment!r} at {redacted(uri)}",
            )
        children = _children(client, found.experiment_id, parents[0].info.run_id)
        return sorted((_record(client, run) for run in children if run.info.status != "RUNNING"), key=lambda record: record.number)
    except failures_of_mlflow() as error:
        raise UserError(redacted(f"MLflow at {uri} cannot be read: {error}"), key=KEY, value=f"mlflow:{sweep_name}") from None


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
