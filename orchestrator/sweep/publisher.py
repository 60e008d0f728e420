"""Makes what people look at out of the study: MLflow runs, the report, the closing lines. Never the reason
that a sweep fails."""

import logging
import time
from collections.abc import Callable, Iterable
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
"""Seconds for which MLflow is left alone after it was away: one that hangs would hold up every event, and the
end of the sweep."""

LEADERBOARD_EVERY_S = 10.0
"""Least time between two leaderboards of a sweep that runs: a front may move with every trial, and people
read slower."""


class Publisher:
    """Keeps MLflow and the report up to date with the study. Its methods run on one thread, beside the sweep.

    Args:
        sweep: Resolved settings.
        folder: The sweep's files.
        study: The truth.
        ledger: What the driver knows of it; only read here.
        uri: Tracking server or store.
        benchmark: The data set.
        warn: Takes a line, once, when MLflow is away.
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
        self.sweep, self.folder, self.study, self.sweep_state, self.warn = (
            sweep,
            folder,
            study,
            sweep_state,
            warn,
        )
        # Of now: on a retry much later the checkout may be another.
        self._data_digest, self._provenance = benchmark.digest, provenance()
        self._datasets = describe_datasets(sweep.data, benchmark)
        self.tracker = Tracker(
            uri, EXPERIMENT, sweep.name, folder.root / "mlflow-artifacts", sweep_identity(folder.path)
        )
        self._unsent: set[int] = set()
        self._volumes_sent = 0
        self._baselines: dict[str, Any] = {}
        self._shown_front: Front | None = None
        self._next_leaderboard = 0.0
        self._started = False
        self._warned = False
        self._quiet_until = 0.0

    def trials_changed(self, numbers: Iterable[int]) -> None:
        """Send what is new of these trials; what could not be sent goes along with the next one, or at the
        end."""
        self._unsent.update(numbers)
        if time.monotonic() >= self._quiet_until:
            self._deliver(self._send_news)

    def sweep_ended(self, *, complete: bool) -> None:
        """Write the report, and send everything that MLflow lacks.

        Args:
            complete: Whether all trials of the sweep have ended.
        """
        view = study_view(self.sweep, self.folder, self.study, self.sweep_state)
        files = write_report(self.folder.path, view)
        front = sweep_front(view)
        write_json(self.folder.path / "front.json", front)
        summary = SweepSummary(
            {**self.sweep_state.counts},
            front,
            leaderboard(view),
            files,
            "FINISHED" if complete else "KILLED",
        )
        # Trials of earlier starts too: MLflow may have been away at their end, or the driver dead.
        self._unsent.update(self.sweep_state.records)

        def send() -> None:
            self._send_trials()
            for side in (
                *map(confirmation_run, read_confirmations(self.folder)),
                *map(audit_run, read_audits(self.folder)),
            ):
                self.tracker.sync_side_run(side)
            self.tracker.sync_summary(summary)

        self._deliver(send)

    def sweep_terminated(self) -> None:
        """Say in MLflow that the sweep has ended for now; for the rest there is no time, and the next start
        does it."""
        if self._started and time.monotonic() >= self._quiet_until:
            self._deliver(lambda: self.tracker.sync_status("KILLED"))

    def _send_news(self) -> None:
        self._send_trials()
        self._send_leaderboard()

    def _send_trials(self) -> None:
        if not self._started:
            self.tracker.sync_parent(
                SweepInfo(self.sweep, self._data_digest, self._provenance, self._datasets)
            )
            self._note_view(self.tracker.write_view(self.sweep))
            self._started = True
        members = self.sweep_state.reported_front.members
        for number in sorted(self._unsent):
            record = self.sweep_state.records[number]
            trial = apply(self.sweep.trial, record.params)
            run_id = self.tracker.sync_trial(
                record,
                sorted(member.rung for member in members if member.record.number == number),
                trial.forget.method,
                trial.beliefs,
                record.spent_s * self.sweep.resources.workers_per_trial,
            )
            # The ledger's record of a trial that has ended stays as it was then.
            if self.study.annotations(number).get("mlflow_run_id") != run_id:
                self.study.annotate(number, "mlflow_run_id", run_id)
            self.tracker.sync_samples(record.trial_id, self.folder.trial_system_metrics(record.trial_id))
            self._unsent.discard(number)
        new = self.sweep_state.hypervolumes[self._volumes_sent :]
        if new:
            self.tracker.sync_hypervolumes(self._volumes_sent + 1, new)
            self._volumes_sent += len(new)

    def _send_leaderboard(self) -> None:
        """Show the front as it stands, where it has moved; made of what the ledger knows, so that long sweeps
        do not slow down."""
        front = self.sweep_state.reported_front
        if time.monotonic() < self._next_leaderboard or (
            self._shown_front and front.keys == self._shown_front.keys
        ):
            return
        self._baselines = self._baselines or {
            name: baseline.metrics() for name, baseline in read_baselines(self.folder).items()
        }
        records = list(self.sweep_state.records.values())
        view = SweepView(self.sweep, records, self._baselines, known_front=front)
        self.tracker.sync_leaderboard({**self.sweep_state.counts}, leaderboard(view))
        self._shown_front, self._next_leaderboard = front, time.monotonic() + LEADERBOARD_EVERY_S

    def _note_view(self, path: str | None) -> None:
        file = self.folder.path / VIEW_FILE
        try:
            file.unlink(missing_ok=True)
            if path is not None:
                write_json(file, {"uri": redacted(self.tracker.uri), "path": path})
        except OSError as error:
            # A full disk must not keep the trials out of MLflow.
            logger.warning("the place of MLflow's saved view is not noted: %s", error)

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
