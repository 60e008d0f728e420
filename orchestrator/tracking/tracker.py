"""What MLflow is told about a sweep: a parent run, and a child run per trial. The only module that knows MLflow.

Every call sends what MLflow lacks and nothing twice, whoever sent it before. After a resume, or once a server is back, the same calls
with the study's records deliver the rest: the study's journal is the queue on disk, and there is no second one to differ from it.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.provenance import as_text, flattened, redacted
from orchestrator.records import Confirmation, Status, TrialRecord
from orchestrator.tracking.mlflow_client import create_database, failures_of_mlflow, new_client
from search_spaces.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# MLflow's own limits of one request.
_METRICS_PER_BATCH = 1000
_PARAMS_PER_BATCH = 100
_TAG_CHARACTERS = 7900
# Longer values make the run page of the UI hard to read; sweep.json has them whole.
_PARAM_CHARACTERS = 500
# A trial that early stopping ended did what it should: the tag `status` tells it apart.
_RUN_STATUS = {"running": "RUNNING", "finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}
_PARENT = ""

CONFIRMS = "lethe.confirms"
"""Tag of a run that repeats a member of the front under another seed: which member."""


class TrackingError(Exception):
    """MLflow could not be reached or refused. Nothing is lost: the next call sends what is missing."""


@dataclass(frozen=True)
class SweepInfo:
    """What the parent run says about a sweep from its start."""

    sweep: SweepSettings
    data_digest: str
    """Hash of the benchmark's contents."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Tags on versions and git, as `orchestrator.provenance.provenance()` gives them."""


@dataclass(frozen=True)
class SweepSummary:
    """What the parent run says about a sweep so far."""

    counts: Mapping[Status, int]
    """Trials by status."""
    front: Mapping[str, Any]
    """What `orchestrator.front.front_json` gives."""
    leaderboard: str
    """Markdown that the run page shows."""
    files: Sequence[Path] = ()
    """Figure and report, kept under their own names; a newer version replaces the older one."""
    status: str = "RUNNING"
    """`RUNNING`, `FINISHED`, `FAILED` or `KILLED`."""


@dataclass
class _Sent:
    """What MLflow already holds of one run."""

    run_id: str
    status: str = "RUNNING"
    tags: dict[str, str] = field(default_factory=dict)
    params: set[str] = field(default_factory=set)
    unread: set[str] = field(default_factory=set)
    """Metrics whose steps have not been asked for yet: one request each, so only where something is to be sent."""
    steps: dict[str, set[int]] = field(default_factory=dict)


class Tracker:
    """Writes one sweep to MLflow. Not for use from several threads at once."""

    def __init__(self, uri: str, experiment: str, sweep_name: str, artifacts: Path, identity: str = "") -> None:
        """Touches nothing yet: the first `sync_*` call connects.

        Args:
            uri: Tracking server (`http://host:5000`) or database (`sqlite:////path/mlflow.db`, created when missing).
            experiment: MLflow experiment, shared by all sweeps.
            sweep_name: Name of the parent run.
            artifacts: Folder of the artifacts where MLflow has no server that keeps them.
            identity: What tells this sweep from others of the same name (`orchestrator.provenance.sweep_identity`); the name when left out.

        Raises:
            UserError: The URI means MLflow's retired file store.
        """
        if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", uri) or uri.startswith("file:"):
            raise UserError(
                "MLflow no longer keeps runs in a plain folder",
                key="--tracking-uri",
                value=redacted(uri),
                allowed="sqlite:////absolute/path/mlflow.db, or a server such as http://host:5000",
            )
        self.uri, self.experiment, self.sweep_name, self.artifacts = uri, experiment, sweep_name, artifacts
        self.identity = identity or sweep_name
        self._connection: MlflowClient | None = None
        self._experiment_id = ""
        self._runs: dict[str, _Sent] = {}

    def sync_parent(self, info: SweepInfo) -> str:
        """Create the parent run, or take it up again after a resume.

        Args:
            info: Settings and origins; parameters that MLflow has already stay as they are.

        Returns:
            The parent's run id.

        Raises:
            TrackingError: MLflow is away or refused.
        """
        with self._talking() as client:
            config = info.sweep.model_dump(mode="json")
            # A resume may ask for more trials or lift a budget, and MLflow's parameters cannot change.
            limits = {"lethe.trials": str(config["search"].pop("trials")), "lethe.budget": as_text(config.pop("budget"))}
            tags = {"lethe.data_digest": info.data_digest, **limits, **info.provenance}
            sent = self._run(client, _PARENT, self.sweep_name, None)
            self._add(client, sent, params=flattened(config), tags=tags)
            self._set_status(client, sent, "RUNNING", None)
            client.log_text(sent.run_id, redacted(info.sweep.model_dump_json(indent=1)), "sweep.json")
            return sent.run_id

    def sync_trial(self, record: TrialRecord, front_rungs: Sequence[int], method: str, beliefs: str, worker_seconds: float) -> str:
        """Create or complete the child run of a trial.

        Args:
            record: The trial as it stands.
            front_rungs: Its rungs on the front now; may change as other trials end.
            method: Base method, searched or not.
            beliefs: Which beliefs are suppressed, searched or not.
            worker_seconds: Seconds times workers of all its attempts, logged with its end.

        Returns:
            The child's run id.

        Raises:
            TrackingError: MLflow is away or refused.
        """
        with self._talking() as client:
            started = None if record.started_at is None else round(record.started_at * 1000)
            sent = self._run(client, record.trial_id, record.trial_id, started)
            tags = {"method": method, "beliefs": beliefs, "status": record.status, "pareto.front": str(bool(front_rungs)).lower()}
            tags["pareto.rungs"] = ", ".join(map(str, front_rungs)) or "none"
            if record.reason:
                tags["reason"] = record.reason
            steps = _metrics_by_rung(record, worker_seconds)
            status = _RUN_STATUS[record.status]
            complete = sent.tags.get("lethe.rungs") == str(len(steps)) and sent.status == status
            metrics = [] if complete else _times(record, steps)
            params = {key: as_text(value) for key, value in record.params.items()}
            # The count goes last, when all that it promises has arrived.
            self._add(client, sent, metrics, params, tags)
            self._add(client, sent, tags={"lethe.rungs": str(len(steps))})
            ended = None if record.finished_at is None else round(record.finished_at * 1000)
            self._set_status(client, sent, status, ended)
            return sent.run_id

    def sync_confirmation(self, confirmation: Confirmation) -> None:
        """Create the child run of a repetition under another seed, unless MLflow has it.

        Raises:
            TrackingError: MLflow is away or refused.
        """
        with self._talking() as client:
            sent = self._run(client, confirmation.name, confirmation.name, None)
            tags = {CONFIRMS: confirmation.member, "seed": str(confirmation.seed)}
            tags |= {"status": "failed", "reason": confirmation.reason} if confirmation.reason else {"status": "finished"}
            now, step = _now(), confirmation.rung - 1
            self._add(client, sent, [(key, value, step, now) for key, value in confirmation.metrics.items()], tags=tags)
            self._set_status(client, sent, _RUN_STATUS["failed" if confirmation.reason else "finished"], None)

    def sync_hypervolumes(self, first: int, hypervolumes: Sequence[float]) -> None:
        """Send the parent's newest hypervolumes; `sync_parent` came before.

        Args:
            first: Trials with a result after which the first of them was measured.
            hypervolumes: One for each trial with a result from there on.

        Raises:
            TrackingError: MLflow is away or refused.
        """
        with self._talking() as client:
            now = _now()
            sent = self._run(client, _PARENT, self.sweep_name, None)
            self._add(client, sent, [("hypervolume", value, step, now) for step, value in enumerate(hypervolumes, start=first)])

    def sync_summary(self, summary: SweepSummary) -> None:
        """Bring the parent run up to date: leaderboard, front and files.

        Args:
            summary: State of the sweep; `sync_parent` came before.

        Raises:
            TrackingError: MLflow is away or refused.
        """
        with self._talking() as client:
            sent = self._run(client, _PARENT, self.sweep_name, None)
            counts = {f"lethe.{status}": str(count) for status, count in summary.counts.items()}
            self._add(client, sent, tags={**counts, "mlflow.note.content": _cut(summary.leaderboard)})
            client.log_dict(sent.run_id, dict(summary.front), "front.json")
            for file in summary.files:
                client.log_artifact(sent.run_id, str(file))
            self._set_status(client, sent, summary.status, None)

    @contextmanager
    def _talking(self) -> "Iterator[MlflowClient]":
        try:
            if self._connection is None:
                self._connection = self._connect()
            yield self._connection
        except failures_of_mlflow() as error:
            # Whatever was half done, or removed by somebody in the UI, is looked up afresh by the next call.
            self._connection, self._runs = None, {}
            # Not chained: tracebacks of database drivers quote the URI with its password.
            raise TrackingError(redacted(f"MLflow at {self.uri}: {type(error).__name__}: {error}")) from None

    def _connect(self) -> "MlflowClient":
        create_database(self.uri)
        client = new_client(self.uri)
        self._experiment_id = self._find_experiment(client)
        self._runs = {}
        token = None
        filter_string = f"tags.`lethe.sweep_id` = '{self.identity}'"
        while True:
            page = client.search_runs([self._experiment_id], filter_string, order_by=["attributes.start_time DESC"], page_token=token)
            # Newest first, so that of two runs for one trial the older one is kept.
            self._runs |= {run.data.tags.get("lethe.trial", _PARENT): _held(run) for run in page}
            token = page.token
            if not token:
                return client

    def _find_experiment(self, client: "MlflowClient") -> str:
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            # A server keeps artifacts where it was told to; a bare database would put them into the working directory.
            place = None if re.match("https?:|databricks", self.uri) else self.artifacts.resolve().as_uri()
            try:
                return client.create_experiment(self.experiment, artifact_location=place)
            except MlflowException as error:
                # Another driver was faster.
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = client.get_experiment_by_name(self.experiment)
                assert found is not None, "an experiment that exists is found"
        if found.lifecycle_stage == "deleted":
            # Its name is taken for as long as it is in MLflow's bin.
            client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _run(self, client: "MlflowClient", trial: str, name: str, started: int | None) -> _Sent:
        """The run of a trial, or the parent run, created when there is none."""
        if trial not in self._runs:
            tags = {"lethe.sweep": self.sweep_name, "lethe.sweep_id": self.identity, "mlflow.source.name": "lethe run"}
            if trial != _PARENT:
                tags |= {"lethe.trial": trial, "mlflow.parentRunId": self._run(client, _PARENT, self.sweep_name, None).run_id}
            run = client.create_run(self._experiment_id, start_time=started, tags=tags, run_name=name)
            self._runs[trial] = _held(run)
        return self._runs[trial]

    def _add(
        self,
        client: "MlflowClient",
        sent: _Sent,
        metrics: Sequence[tuple[str, float, int, int]] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Send what the run lacks; metrics are (key, value, step, unix time in ms)."""
        from mlflow.entities import Metric, Param, RunTag

        for key in sent.unread & {metric[0] for metric in metrics}:
            sent.steps[key] = {metric.step for metric in client.get_metric_history(sent.run_id, key)}
            sent.unread.discard(key)
        new_metrics = [Metric(key, value, when, step) for key, value, step, when in metrics if step not in sent.steps.get(key, ())]
        new_params = [Param(key, redacted(value)[:_PARAM_CHARACTERS]) for key, value in (params or {}).items() if key not in sent.params]
        cleaned = {key: redacted(value)[:_TAG_CHARACTERS] for key, value in (tags or {}).items()}
        new_tags = {key: value for key, value in cleaned.items() if sent.tags.get(key) != value}
        for start in range(0, len(new_metrics), _METRICS_PER_BATCH - 1):
            client.log_batch(sent.run_id, metrics=new_metrics[start : start + _METRICS_PER_BATCH - 1])
        for start in range(0, len(new_params), _PARAMS_PER_BATCH):
            client.log_batch(sent.run_id, params=new_params[start : start + _PARAMS_PER_BATCH])
        if new_tags:
            client.log_batch(sent.run_id, tags=[RunTag(key, value) for key, value in new_tags.items()])
        for metric in new_metrics:
            sent.steps.setdefault(metric.key, set()).add(metric.step)
        sent.params |= {param.key for param in new_params}
        sent.tags |= new_tags

    def _set_status(self, client: "MlflowClient", sent: _Sent, status: str, ended: int | None) -> None:
        if sent.status == status:
            return
        if status == "RUNNING":
            client.update_run(sent.run_id, status=status)
        else:
            client.set_terminated(sent.run_id, status, ended)
        sent.status = status


def _cut(markdown: str) -> str:
    """A leaderboard that fits into a tag, cut between two lines."""
    if len(markdown) <= _TAG_CHARACTERS:
        return markdown
    more = "\n\nMore is in report.html."
    return markdown[: markdown.rindex("\n", 0, _TAG_CHARACTERS - len(more))] + more


def _now() -> int:
    return round(time.time() * 1000)


def _metrics_by_rung(record: TrialRecord, worker_seconds: float) -> list[dict[str, float]]:
    """Metrics of every rung; those of the trial's end count to its last rung."""
    rungs = [dict(rung) for rung in record.rungs]
    if record.ended:
        rungs = rungs or [{}]
        rungs[-1] |= {"worker_seconds": worker_seconds}
        if record.duration_s is not None:
            rungs[-1]["duration_s"] = record.duration_s
    return rungs


def _times(record: TrialRecord, rungs: Sequence[Mapping[str, float]]) -> list[tuple[str, float, int, int]]:
    """Metrics with a time each: now, or evenly spread over a trial that has ended, which may be long ago."""
    metrics = []
    for step, rung in enumerate(rungs):
        when = _now()
        if record.started_at is not None and record.finished_at is not None:
            when = round(1000 * (record.started_at + (record.finished_at - record.started_at) * (step + 1) / len(rungs)))
        metrics += [(key, value, step, when) for key, value in rung.items()]
    return metrics


def _held(run: "Run") -> _Sent:
    return _Sent(run.info.run_id, run.info.status, dict(run.data.tags), set(run.data.params), set(run.data.metrics))
