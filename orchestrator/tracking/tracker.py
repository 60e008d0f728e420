"""What MLflow is told about a sweep: a parent run, a child run per trial, and the view that opens on them.

Every call sends what MLflow lacks and nothing twice, whoever sent it before. After a resume, or once a server
is back, the same calls with the study's records deliver the rest: the study's journal is the queue on disk,
and there is no second one to differ from it.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.storage.provenance import as_text, flattened, redacted
from orchestrator.storage.system_metrics_file import read_samples
from orchestrator.storage.trial_records import Status, TrialRecord
from orchestrator.tracking.mlflow_client import create_database, failures_of_mlflow, new_client, version_of_ui
from orchestrator.tracking.run_contents import (
    TAG_CHARACTERS,
    SideRun,
    metrics_by_rung,
    note,
    now_ms,
    settings_and_limits,
    timed_metrics,
    trial_tags,
)
from orchestrator.tracking.saved_view import KIND, TAG, knows, saved_view, view_path
from orchestrator.tracking.system_metrics import system_metrics, system_metrics_sent
from orchestrator.tracking.tracked_datasets import DatasetInfo, dataset_inputs
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

# MLflow's own limits of one request.
_METRICS_PER_BATCH = 1000
_PARAMS_PER_BATCH = 100
# Longer values make the run page of the UI hard to read; sweep.json has them whole.
_PARAM_CHARACTERS = 500
# A trial that early stopping ended did what it should: the tag `status` tells it apart.
_RUN_STATUS = {"running": "RUNNING", "finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}
_PARENT = ""


class TrackingError(Exception):
    """MLflow could not be reached or refused. Nothing is lost: the next call sends what is missing."""


@dataclass(frozen=True)
class SweepInfo:
    """What the parent run says about a sweep from its start."""

    sweep: SweepSettings
    data_digest: str
    """Hash of the benchmark's contents."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Tags on versions and git, as `orchestrator.storage.provenance.provenance()` gives them."""
    datasets: Sequence[DatasetInfo] = ()
    """What is forgotten, retained and held out."""


@dataclass(frozen=True)
class SweepSummary:
    """What the parent run says about a sweep so far."""

    counts: Mapping[Status, int]
    """Trials by status."""
    front: Mapping[str, Any]
    """What `orchestrator.pareto.front.front_json` gives."""
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
    """Metrics whose steps have not been asked for yet: one request each, so only where something is to be
    sent."""
    steps: dict[str, set[int]] = field(default_factory=dict)


class Tracker:
    """Writes one sweep to MLflow. Not for use from several threads at once."""

    def __init__(
        self, uri: str, experiment: str, sweep_name: str, artifacts: Path, identity: str = ""
    ) -> None:
        """Touches nothing yet: the first `sync_*` call connects.

        Args:
            uri: Tracking server (`http://host:5000`) or database (`sqlite:////path/mlflow.db`, created when
                missing).
            experiment: MLflow experiment, shared by all sweeps.
            sweep_name: Name of the parent run.
            artifacts: Folder of the artifacts where MLflow has no server that keeps them.
            identity: What tells this sweep from others of the same name (`sweep_identity` of provenance); the
                name when left out.

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
            settings, limits = settings_and_limits(info.sweep.model_dump(mode="json"))
            tags = {KIND: "sweep", "lethe.data_digest": info.data_digest, **limits, **info.provenance}
            sent = self._run(client, _PARENT, self.sweep_name, None)
            self._add(client, sent, params=flattened(settings), tags=tags)
            if info.datasets:
                # MLflow keeps one of each name and digest, however often it is told.
                client.log_inputs(sent.run_id, dataset_inputs(info.datasets))
            self._set_status(client, sent, "RUNNING", None)
            client.log_text(sent.run_id, redacted(info.sweep.model_dump_json(indent=1)), "sweep.json")
            return sent.run_id

    def sync_trial(
        self,
        record: TrialRecord,
        front_rungs: Sequence[int],
        method: str,
        beliefs: str,
        worker_seconds: float,
    ) -> str:
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
            tags = {KIND: "trial", **trial_tags(record, front_rungs, method, beliefs)}
            steps = metrics_by_rung(record, worker_seconds)
            status = _RUN_STATUS[record.status]
            complete = sent.tags.get("lethe.rungs") == str(len(steps)) and sent.status == status
            metrics = [] if complete else timed_metrics(record, steps)
            params = {key: as_text(value) for key, value in record.params.items()}
            # The count goes last, when all that it promises has arrived.
            self._add(client, sent, metrics, params, tags)
            self._add(client, sent, tags={"lethe.rungs": str(len(steps))})
            ended = None if record.finished_at is None else round(record.finished_at * 1000)
            self._set_status(client, sent, status, ended)
            return sent.run_id

    def sync_samples(self, trial_id: str, file: Path) -> None:
        """Send what workers measured of themselves during a trial; `sync_trial` came before.

        Args:
            trial_id: The trial.
            file: Where `orchestrator.storage.system_metrics_file` keeps it, if anywhere.

        Raises:
            TrackingError: MLflow is away or refused.
        """
        if file.is_file():
            with self._talking() as client:
                sent = self._run(client, trial_id, trial_id, None)
                for metrics, tags in system_metrics(read_samples(file, system_metrics_sent(sent.tags))):
                    client.log_batch(sent.run_id, metrics=metrics)
                    # After what it counts: a driver killed in between sends that again, and MLflow keeps one
                    # of each.
                    self._add(client, sent, tags=tags)

    def sync_side_run(self, side: SideRun) -> None:
        """Create a child run that is no trial, unless MLflow has it.

        Raises:
            TrackingError: MLflow is away or refused.
        """
        with self._talking() as client:
            sent = self._run(client, side.name, side.name, None)
            now = now_ms()
            metrics = [(key, value, side.step, now) for key, value in side.metrics.items()]
            self._add(client, sent, metrics, tags={KIND: side.kind, **side.tags})
            self._set_status(client, sent, _RUN_STATUS["failed" if side.failed else "finished"], None)

    def sync_hypervolumes(self, first: int, hypervolumes: Sequence[float]) -> None:
        """Send the parent's newest hypervolumes; `sync_parent` came before.

        Args:
            first: Trials with a result after which the first of them was measured.
            hypervolumes: One for each trial with a result from there on.

        Raises:
            TrackingError: MLflow is away or refused.
        """
        with self._talking() as client:
            now = now_ms()
            sent = self._run(client, _PARENT, self.sweep_name, None)
            self._add(
                client,
                sent,
                [("hypervolume", value, step, now) for step, value in enumerate(hypervolumes, start=first)],
            )

    def sync_leaderboard(self, counts: Mapping[Status, int], leaderboard: str) -> None:
        """Show how the sweep stands while it runs; `sync_parent` came before.

        Args:
            counts: Trials by status.
            leaderboard: Markdown that the run page shows.

        Raises:
            TrackingError: MLflow is away or refused.
        """
        with self._talking() as client:
            self._add(
                client, self._run(client, _PARENT, self.sweep_name, None), tags=_standing(counts, leaderboard)
            )

    def sync_status(self, status: str) -> None:
        """Set the parent's status, and nothing else; `sync_parent` came before.

        Args:
            status: `RUNNING`, `FINISHED`, `FAILED` or `KILLED`.

        Raises:
            TrackingError: MLflow is away or refused.
        """
        with self._talking() as client:
            self._set_status(client, self._run(client, _PARENT, self.sweep_name, None), status, None)

    def write_view(self, sweep: SweepSettings) -> str | None:
        """Write the view on which MLflow opens this sweep; `sync_parent` came before. A convenience, so
        whatever is wrong is logged only.

        Args:
            sweep: Settings with objectives filled in.

        Returns:
            What follows the UI's address; None when this MLflow takes no view.
        """
        try:
            with self._talking() as client:
                version = version_of_ui(self.uri)
                view = saved_view(sweep, self.identity, now_ms())
                if not knows(version) or not view.fits:
                    why = (
                        "its settings are too many for a tag"
                        if knows(version)
                        else f"views of version {version!r} are not known"
                    )
                    logger.warning("MLflow gets no saved view of this sweep: %s", why)
                    return None
                client.set_experiment_tag(self._experiment_id, TAG + view.name, view.value)
                return view_path(self._experiment_id, view.name)
        except TrackingError as error:
            logger.warning("MLflow got no saved view of this sweep: %s", error)
            return None

    def sync_summary(self, summary: SweepSummary) -> None:
        """Bring the parent run up to date: leaderboard, front and files.

        Args:
            summary: State of the sweep; `sync_parent` came before.

        Raises:
            TrackingError: MLflow is away or refused.
        """
        with self._talking() as client:
            sent = self._run(client, _PARENT, self.sweep_name, None)
            self._add(client, sent, tags=_standing(summary.counts, summary.leaderboard))
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
            told = (str(error).strip().splitlines() or ["no message"])[0]
            raise TrackingError(redacted(f"MLflow at {self.uri}: {type(error).__name__}: {told}")) from None

    def _connect(self) -> "MlflowClient":
        create_database(self.uri)
        client = new_client(self.uri)
        self._experiment_id = self._find_experiment(client)
        self._runs = {}
        token = None
        filter_string = f"tags.`lethe.sweep_id` = '{self.identity}'"
        while True:
            page = client.search_runs(
                [self._experiment_id],
                filter_string,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            # Newest first, so that of two runs for one trial the older one is kept.
            self._runs |= {run.data.tags.get("lethe.trial", _PARENT): _held(run) for run in page}
            token = page.token
            if not token:
                return client

    def _find_experiment(self, client: "MlflowClient") -> str:
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            # A server keeps artifacts where it was told to; a bare database would put them into the working
            # directory.
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
            tags = {
                "lethe.sweep": self.sweep_name,
                "lethe.sweep_id": self.identity,
                "mlflow.source.name": "lethe run",
            }
            if trial != _PARENT:
                tags |= {
                    "lethe.trial": trial,
                    "mlflow.parentRunId": self._run(client, _PARENT, self.sweep_name, None).run_id,
                }
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
        new_metrics = [
            Metric(key, value, when, step)
            for key, value, step, when in metrics
            if step not in sent.steps.get(key, ())
        ]
        new_params = [
            Param(key, redacted(value)[:_PARAM_CHARACTERS])
            for key, value in (params or {}).items()
            if key not in sent.params
        ]
        cleaned = {key: redacted(value)[:TAG_CHARACTERS] for key, value in (tags or {}).items()}
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


def _held(run: "Run") -> _Sent:
    return _Sent(
        run.info.run_id, run.info.status, dict(run.data.tags), set(run.data.params), set(run.data.metrics)
    )


def _standing(counts: Mapping[Status, int], leaderboard: str) -> dict[str, str]:
    return {f"lethe.{status}": str(count) for status, count in counts.items()} | {
        "mlflow.note.content": note(leaderboard)
    }
