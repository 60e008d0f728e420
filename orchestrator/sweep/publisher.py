"""Publishes a sweep: its runs in MLflow, its front as JSON, and its report.

Trouble with MLflow never ends a sweep: what could not be sent is sent later.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from orchestrator.pareto.front import Front
from orchestrator.pareto.sweep_view import SweepView
from orchestrator.report.html_report import study_view, sweep_front, write_report
from orchestrator.report.tables import leaderboard
from orchestrator.search.study import Study
from orchestrator.search.sweep_state import SweepState
from orchestrator.storage.baselines import read_baselines
from orchestrator.storage.followup_records import read_audits, read_confirmations
from orchestrator.storage.provenance import provenance, redacted, sweep_identity
from orchestrator.storage.sweep_folder import SweepFolder
from orchestrator.tracking.run_contents import audit_run, confirmation_run
from orchestrator.tracking.tracked_datasets import describe_datasets
from orchestrator.tracking.tracker import SweepInfo, SweepSummary, Tracker, TrackingError
from orchestrator.tracking.tracking_store import EXPERIMENT, VIEW_FILE
from search_spaces.settings.space import apply
from search_spaces.settings.sweep_settings import SweepSettings
from trainables.data.examples import Benchmark
from trainables.durable_files import write_json

logger = logging.getLogger(__name__)


QUIET_S = 60.0
"""Seconds without any call to MLflow after one that failed.

A server that hangs would otherwise delay every event, and the end of the sweep.
"""

LEADERBOARD_EVERY_S = 10.0
"""Least seconds between two leaderboards: the front may change with every trial, and people read slower."""


class Publisher:
    """Keeps MLflow and the report up to date with the study.

    All methods must be called on one thread; a sweep calls them on one of its own.

    Args:
        sweep: Settings with objectives filled in.
        folder: Folder of the sweep.
        study: Study of the sweep. The only thing written to it are the ids of MLflow's runs.
        sweep_state: State that follows the study; it is only read here.
        uri: MLflow's server or database.
        benchmark: The sweep's data.
        warn: Receives a line when MLflow cannot be reached, once.

    Raises:
        UserError: The URI refers to MLflow's retired file store.
    """

    def __init__(
        self,
        sweep: SweepSettings,
        folder: SweepFolder,
        study: Study,
        sweep_state: SweepState,
        uri: str,
        benchmark: Benchmark,
        warn: Callable[[str], None],
    ) -> None:
        self.sweep = sweep
        self.folder = folder
        self.study = study
        self.sweep_state = sweep_state
        self.warn = warn
        # Taken now: when the parent run is sent late, the checkout may have changed.
        datasets = describe_datasets(sweep.data, benchmark)
        self._info = SweepInfo(sweep, benchmark.digest, provenance(), datasets)
        artifacts = folder.root / "mlflow-artifacts"
        self.tracker = Tracker(uri, EXPERIMENT, sweep.name, artifacts, sweep_identity(folder.path))
        self._unsent: set[int] = set()
        self._volumes_sent = 0
        self._baselines: dict[str, Any] = {}
        self._shown_front: Front | None = None
        self._next_leaderboard = 0.0
        self._started = False
        self._warned = False
        self._quiet_until = 0.0

    def trials_changed(self, numbers: Iterable[int]) -> None:
        """Send what is new of some trials, by number, and of those that could not be sent before."""
        self._unsent.update(numbers)
        if time.monotonic() >= self._quiet_until:
            self._deliver(self._send_news)

    def sweep_ended(self, *, complete: bool) -> None:
        """Write the report and the front, and send everything that MLflow lacks.

        Args:
            complete: Whether all trials of the sweep have ended.
        """
        view = study_view(self.sweep, self.folder, self.study, self.sweep_state)
        files = write_report(self.folder.path, view)
        front = sweep_front(view)
        write_json(self.folder.path / "front.json", front)
        # MLflow has no status for a sweep that is interrupted and may go on.
        status = "FINISHED" if complete else "KILLED"
        summary = SweepSummary({**self.sweep_state.counts}, front, leaderboard(view), files, status)
        # Trials of earlier starts too: MLflow may have been away when they ended, or the driver was killed.
        self._unsent.update(self.sweep_state.records)
        self._deliver(lambda: self._send_everything(summary))

    def sweep_terminated(self) -> None:
        """Set the sweep's run in MLflow to killed, and leave all else to the next start: time is short."""
        if self._started and time.monotonic() >= self._quiet_until:
            self._deliver(lambda: self.tracker.sync_status("KILLED"))

    def _send_news(self) -> None:
        self._send_trials()
        self._send_leaderboard()

    def _send_everything(self, summary: SweepSummary) -> None:
        self._send_trials()
        for confirmation in read_confirmations(self.folder):
            self.tracker.sync_side_run(confirmation_run(confirmation))
        for audit in read_audits(self.folder):
            self.tracker.sync_side_run(audit_run(audit))
        self.tracker.sync_summary(summary)

    def _send_trials(self) -> None:
        if not self._started:
            self.tracker.sync_parent(self._info)
            self._note_view(self.tracker.write_view(self.sweep))
            self._started = True
        members = self.sweep_state.reported_front.members
        for number in sorted(self._unsent):
            rungs = sorted(member.rung for member in members if member.record.number == number)
            self._send_trial(number, rungs)
            # Removed one by one: if a later trial cannot be sent, this one is not sent again.
            self._unsent.discard(number)
        new = self.sweep_state.hypervolumes[self._volumes_sent :]
        if new:
            # The steps of the curve count ended trials, from 1.
            self.tracker.sync_hypervolumes(self._volumes_sent + 1, new)
            self._volumes_sent += len(new)

    def _send_trial(self, number: int, rungs_on_front: Sequence[int]) -> None:
        record = self.sweep_state.records[number]
        trial = apply(self.sweep.trial, record.params)
        worker_seconds = record.spent_s * self.sweep.resources.workers_per_trial
        run_id = self.tracker.sync_trial(
            record, rungs_on_front, trial.forget.method, trial.beliefs, worker_seconds
        )
        # Read from the study, since the sweep state keeps the record of an ended trial as it was then.
        if self.study.annotations(number).get("mlflow_run_id") != run_id:
            self.study.annotate(number, "mlflow_run_id", run_id)
        self.tracker.sync_samples(record.trial_id, self.folder.trial_system_metrics(record.trial_id))

    def _send_leaderboard(self) -> None:
        """Send the leaderboard if the front has changed.

        It is made from the sweep state and not from the study, so that its cost does not grow with the sweep.
        """
        front = self.sweep_state.reported_front
        unchanged = self._shown_front is not None and front.keys == self._shown_front.keys
        if unchanged or time.monotonic() < self._next_leaderboard:
            return
        if not self._baselines:
            baselines = read_baselines(self.folder)
            self._baselines = {name: baseline.metrics() for name, baseline in baselines.items()}
        records = list(self.sweep_state.records.values())
        view = SweepView(self.sweep, records, self._baselines, known_front=front)
        self.tracker.sync_leaderboard({**self.sweep_state.counts}, leaderboard(view))
        self._shown_front = front
        self._next_leaderboard = time.monotonic() + LEADERBOARD_EVERY_S

    def _note_view(self, path: str | None) -> None:
        """Write where MLflow's saved view of the sweep is, for the closing lines of the command."""
        file = self.folder.path / VIEW_FILE
        try:
            file.unlink(missing_ok=True)
            if path is not None:
                write_json(file, {"uri": redacted(self.tracker.uri), "path": path})
        except OSError as error:
            # A full disk must not keep the trials out of MLflow.
            logger.warning("the address of MLflow's saved view is not written: %s", error)

    def _deliver(self, send: Callable[[], None]) -> None:
        try:
            send()
        except TrackingError as error:
            logger.warning("%s", error)
            self._quiet_until = time.monotonic() + QUIET_S
            if not self._warned:
                self._warned = True
                self.warn(
                    f"warning: {error}. The sweep goes on; MLflow gets the rest at the end, or at the next"
                    " `lethe run`."
                )
