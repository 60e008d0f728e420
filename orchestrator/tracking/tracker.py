"""Writes a sweep to MLflow: a parent run, a child run per trial, and a saved view of the UI.

Every call sends what MLflow lacks and nothing twice, no matter which process has sent it before. After a
resume, or once a server is reachable again, the same calls with the study's records deliver the rest. The
study's journal thereby serves as the queue on disk, and no second queue can differ from it.
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
    SideRun,
    metrics_by_rung,
    note,
    now_ms,
    settings_and_limits,
    timed_metrics,
    trial_tags,
)
from orchestrator.tracking.run_writer import RunWriter
from orchestrator.tracking.saved_view import KIND, TAG, is_supported, saved_view, view_path
from orchestrator.tracking.system_metrics import system_metrics, system_metrics_sent
from orchestrator.tracking.tracked_datasets import DatasetInfo, dataset_inputs
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

# A trial that early stopping ended is not a failure; the tag `status` distinguishes it from finished trials.
_RUN_STATUS = {"running": "RUNNING", "finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}
# Key of the parent run among the runs of a sweep. Children have the id of their trial, or the name of their
# confirmation or audit.
_PARENT = ""


class TrackingError(Exception):
    """MLflow could not be reached or refused. Nothing is lost: the next call sends what is missing."""


@dataclass(frozen=True)
class SweepInfo:
    """The contents of the parent run that are known when a sweep starts."""

    sweep: SweepSettings
    data_digest: str
    """Hash of the benchmark's contents."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Tags on versions and git, from `orchestrator.storage.provenance.provenance()`."""
    datasets: Sequence[DatasetInfo] = ()
    """The forget, retain and holdout sets."""


@dataclass(frozen=True)
class SweepSummary:
    """The contents of the parent run that change while a sweep runs."""

    counts: Mapping[Status, int]
    """Number of trials by status."""
    front: Mapping[str, Any]
    """The front as data, from `orchestrator.pareto.front.front_json`."""
    leaderboard: str
    """Markdown for the run page."""
    files: Sequence[Path] = ()
    """Figure and report, logged as artifacts under their own names; a newer version replaces an older one."""
    status: str = "RUNNING"
    """`RUNNING`, `FINISHED`, `FAILED` or `KILLED`."""


class Tracker:
    """Writes one sweep to MLflow. Not thread-safe."""

    def __init__(
        self, uri: str, experiment: str, sweep_name: str, artifacts: Path, identity: str = ""
    ) -> None:
        """Creates a tracker without connecting; the first `sync_*` call connects.

        Args:
            uri: Tracking server (`http://host:5000`) or database (`sqlite:////path/mlflow.db`, created when
                missing).
            experiment: MLflow experiment, shared by all sweeps.
            sweep_name: Name of the parent run.
            artifacts: Folder of the artifacts, for stores without a server that keeps them.
            identity: Distinguishes this sweep from others of the same name (`sweep_identity` of provenance);
                the name by default.

        Raises:
            UserError: The URI refers to MLflow's retired file store.
        """
        # MLflow takes a URI without a scheme for the path of a file store.
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
        self._runs: dict[str, RunWriter] = {}

    def sync_parent(self, info: SweepInfo) -> str:
        """Creates the parent run, or sets it to running again after a resume.

        Args:
            info: Settings and provenance; parameters that MLflow has already stay as they are.

        Returns:
            The run id of the parent run.

        Raises:
            TrackingError: MLflow is unreachable or refused.
        """
        with self._connected() as client:
            settings, limits = settings_and_limits(info.sweep.model_dump(mode="json"))
            tags = {KIND: "sweep", "lethe.data_digest": info.data_digest, **limits, **info.provenance}
            run = self._parent(client)
            run.add(params=flattened(settings), tags=tags)
            if info.datasets:
                # MLflow stores each name and digest once, however often it is logged.
                client.log_inputs(run.run_id, dataset_inputs(info.datasets))
            run.set_status("RUNNING", None)
            client.log_text(run.run_id, redacted(info.sweep.model_dump_json(indent=1)), "sweep.json")
            return run.run_id

    def sync_trial(
        self,
        record: TrialRecord,
        front_rungs: Sequence[int],
        method: str,
        beliefs: str,
        worker_seconds: float,
    ) -> str:
        """Creates or completes the child run of a trial.

        Args:
            record: The current state of the trial.
            front_rungs: Its rungs on the current front; they may change as other trials end.
            method: Base method of the trial, whether or not it is searched.
            beliefs: Suppressed beliefs of the trial, whether or not they are searched.
            worker_seconds: Seconds times workers of all its attempts, logged when the trial has ended.

        Returns:
            The run id of the child run.

        Raises:
            TrackingError: MLflow is unreachable or refused.
        """
        with self._connected() as client:
            started = None if record.started_at is None else round(record.started_at * 1000)
            run = self._run(client, record.trial_id, record.trial_id, started)
            tags = {KIND: "trial", **trial_tags(record, front_rungs, method, beliefs)}
            steps = metrics_by_rung(record, worker_seconds)
            status = _RUN_STATUS[record.status]
            # A complete run needs no metrics, and comparing them would cost one request per metric.
            complete = run.tags.get("lethe.rungs") == str(len(steps)) and run.status == status
            metrics = [] if complete else timed_metrics(record, steps)
            params = {key: as_text(value) for key, value in record.params.items()}
            # The number of rungs is sent last: it states that all rungs up to it have arrived.
            run.add(metrics, params, tags)
            run.add(tags={"lethe.rungs": str(len(steps))})
            ended = None if record.finished_at is None else round(record.finished_at * 1000)
            run.set_status(status, ended)
            return run.run_id

    def sync_samples(self, trial_id: str, file: Path) -> None:
        """Sends the resource samples of a trial's workers, after `sync_trial`.

        Args:
            trial_id: Id of the trial.
            file: File of `orchestrator.storage.system_metrics_file`; it need not exist.

        Raises:
            TrackingError: MLflow is unreachable or refused.
        """
        if file.is_file():
            with self._connected() as client:
                run = self._run(client, trial_id, trial_id, None)
                for metrics, tags in system_metrics(read_samples(file, system_metrics_sent(run.tags))):
                    client.log_batch(run.run_id, metrics=metrics)
                    # After the batch that it counts: a driver killed in between sends the batch again, and
                    # MLflow stores equal metrics once.
                    run.add(tags=tags)

    def sync_side_run(self, side: SideRun) -> None:
        """Creates the child run of a confirmation or an audit, unless MLflow has it.

        Raises:
            TrackingError: MLflow is unreachable or refused.
        """
        with self._connected() as client:
            run = self._run(client, side.name, side.name, None)
            now = now_ms()
            metrics = [(key, value, side.step, now) for key, value in side.metrics.items()]
            run.add(metrics, tags={KIND: side.kind, **side.tags})
            run.set_status(_RUN_STATUS["failed" if side.failed else "finished"], None)

    def sync_hypervolumes(self, first: int, hypervolumes: Sequence[float]) -> None:
        """Sends the newest hypervolumes to the parent run, after `sync_parent`.

        Args:
            first: Number of trials with a result at the first of the hypervolumes; it becomes its step.
            hypervolumes: One hypervolume for each trial with a result from there on.

        Raises:
            TrackingError: MLflow is unreachable or refused.
        """
        with self._connected() as client:
            now = now_ms()
            run = self._parent(client)
            run.add(
                [("hypervolume", value, step, now) for step, value in enumerate(hypervolumes, start=first)]
            )

    def sync_leaderboard(self, counts: Mapping[Status, int], leaderboard: str) -> None:
        """Updates the counts and the leaderboard of the parent run, after `sync_parent`.

        Args:
            counts: Number of trials by status.
            leaderboard: Markdown for the run page.

        Raises:
            TrackingError: MLflow is unreachable or refused.
        """
        with self._connected() as client:
            self._parent(client).add(tags=_progress_tags(counts, leaderboard))

    def sync_status(self, status: str) -> None:
        """Sets the status of the parent run, after `sync_parent`.

        Args:
            status: `RUNNING`, `FINISHED`, `FAILED` or `KILLED`.

        Raises:
            TrackingError: MLflow is unreachable or refused.
        """
        with self._connected() as client:
            self._parent(client).set_status(status, None)

    def write_view(self, sweep: SweepSettings) -> str | None:
        """Writes the saved view of this sweep, after `sync_parent`.

        The view is a convenience, so failures are only logged.

        Args:
            sweep: Settings with objectives filled in.

        Returns:
            The path of the view, to be appended to the UI's address; None if no view could be written.
        """
        try:
            with self._connected() as client:
                version = version_of_ui(self.uri)
                view = saved_view(sweep, self.identity, now_ms())
                if not is_supported(version) or not view.fits:
                    why = (
                        "its settings are too many for a tag"
                        if is_supported(version)
                        else f"the view format of version {version!r} is not known"
                    )
                    logger.warning("MLflow gets no saved view of this sweep: %s", why)
                    return None
                client.set_experiment_tag(self._experiment_id, TAG + view.name, view.value)
                return view_path(self._experiment_id, view.name)
        except TrackingError as error:
            logger.warning("MLflow got no saved view of this sweep: %s", error)
            return None

    def sync_summary(self, summary: SweepSummary) -> None:
        """Updates the parent run after `sync_parent`: leaderboard, front, files and status.

        Args:
            summary: The current state of the sweep.

        Raises:
            TrackingError: MLflow is unreachable or refused.
        """
        with self._connected() as client:
            run = self._parent(client)
            run.add(tags=_progress_tags(summary.counts, summary.leaderboard))
            client.log_dict(run.run_id, dict(summary.front), "front.json")
            for file in summary.files:
                client.log_artifact(run.run_id, str(file))
            run.set_status(summary.status, None)

    @contextmanager
    def _connected(self) -> "Iterator[MlflowClient]":
        try:
            if self._connection is None:
                self._connection = self._connect()
            yield self._connection
        except failures_of_mlflow() as error:
            # The failed call may have sent half of its data, and a run may have been deleted in the UI. The
            # next call therefore reads the runs of the sweep again.
            self._connection, self._runs = None, {}
            # Not chained: tracebacks of database drivers contain the URI with its password.
            line = (str(error).strip().splitlines() or ["no message"])[0]
            raise TrackingError(redacted(f"MLflow at {self.uri}: {type(error).__name__}: {line}")) from None

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
            # Newest first: of two runs of one trial, the older one overwrites the newer one in the dict.
            self._runs |= {run.data.tags.get("lethe.trial", _PARENT): RunWriter(client, run) for run in page}
            token = page.token
            if not token:
                return client

    def _find_experiment(self, client: "MlflowClient") -> str:
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            # A server has its own place for artifacts. For a plain database MLflow would use the working
            # directory, so the location is set here.
            place = None if re.match("https?:|databricks", self.uri) else self.artifacts.resolve().as_uri()
            try:
                return client.create_experiment(self.experiment, artifact_location=place)
            except MlflowException as error:
                # Another driver has created it in the meantime.
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = client.get_experiment_by_name(self.experiment)
                assert found is not None, "an experiment that exists is found"
        if found.lifecycle_stage == "deleted":
            # A deleted experiment keeps its name until it is purged, so no new one can be created.
            client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _parent(self, client: "MlflowClient") -> RunWriter:
        return self._run(client, _PARENT, self.sweep_name, None)

    def _run(self, client: "MlflowClient", trial: str, name: str, started: int | None) -> RunWriter:
        """Returns the run of a trial, or the parent run; it is created if it does not exist."""
        if trial not in self._runs:
            tags = {
                "lethe.sweep": self.sweep_name,
                "lethe.sweep_id": self.identity,
                "mlflow.source.name": "lethe run",
            }
            if trial != _PARENT:
                tags |= {
                    "lethe.trial": trial,
                    "mlflow.parentRunId": self._parent(client).run_id,
                }
            run = client.create_run(self._experiment_id, start_time=started, tags=tags, run_name=name)
            self._runs[trial] = RunWriter(client, run)
        return self._runs[trial]


def _progress_tags(counts: Mapping[Status, int], leaderboard: str) -> dict[str, str]:
    return {f"lethe.{status}": str(count) for status, count in counts.items()} | {
        "mlflow.note.content": note(leaderboard)
    }
