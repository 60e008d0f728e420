"""Makes what people look at out of the study: MLflow runs, the report, the closing lines. Never the reason that a sweep fails."""

import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.parse import urlsplit

from orchestrator.followups.audits import read_audits
from orchestrator.followups.confirmation import read_confirmations
from orchestrator.pareto.front import Front, build_front, front_as_json, front_json
from orchestrator.pareto.objectives import criteria_of, objective_values, objectives_of
from orchestrator.report.html_report import write_report
from orchestrator.report.tables import leaderboard
from orchestrator.search import Study
from orchestrator.search.sweep_state import Ledger
from orchestrator.storage.baselines import read_baselines
from orchestrator.storage.provenance import provenance, redacted, sweep_identity
from orchestrator.storage.sweep_folder import SweepFolder, write_json
from orchestrator.storage.trial_records import SweepView, TrialRecord
from orchestrator.terminal.audit_tables import audit_columns
from orchestrator.tracking.run_contents import audit_run, confirmation_run
from orchestrator.tracking.tracked_datasets import DatasetInfo, describe_datasets
from orchestrator.tracking.tracker import SweepInfo, SweepSummary, Tracker, TrackingError
from search_spaces.settings.space import apply
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError
from trainables.benchmarks.registry import load_benchmark

logger = logging.getLogger(__name__)

EXPERIMENT = "lethe"
"""MLflow experiment of all sweeps, so that they can be compared."""

QUIET_S = 60.0
"""Seconds for which MLflow is left alone after it was away: one that hangs would hold up every event, and the end of the sweep."""

LEADERBOARD_EVERY_S = 10.0
"""Least time between two leaderboards of a sweep that runs: a front may move with every trial, and people read slower."""

VIEW_FILE = "mlflow_view.json"
"""In the sweep's folder: where MLflow's saved view of it is."""

MOST_MEMBERS_SHOWN = 12
"""Lines of the front at the end of a run; `lethe front` shows all."""


def default_tracking_uri(root: Path) -> str:
    """A SQLite file beside the sweeps of a storage root, shared by all of them."""
    return f"sqlite:///{root / 'mlflow.db'}"


class Publisher:
    """Keeps MLflow and the report up to date with the study. Its methods run on one thread, beside the sweep.

    Args:
        sweep: Resolved settings.
        folder: The sweep's files.
        study: The truth.
        ledger: What the driver knows of it; only read here.
        uri: Tracking server or store.
        data_digest: Hash of the benchmark's contents.
        warn: Told once when MLflow is away.
    """

    def __init__(
        self,
        sweep: SweepSettings,
        folder: SweepFolder,
        study: Study,
        ledger: Ledger,
        uri: str,
        data_digest: str,
        warn: Callable[[str], None],
    ) -> None:
        self.sweep, self.folder, self.study, self.ledger, self.warn = sweep, folder, study, ledger, warn
        # Of now: on a retry much later the checkout may be another.
        self._data_digest, self._provenance = data_digest, provenance()
        self._datasets: tuple[DatasetInfo, ...] | None = None
        self.tracker = Tracker(uri, EXPERIMENT, sweep.name, folder.root / "mlflow-artifacts", sweep_identity(folder.path))
        self._unsent: set[int] = set()
        self._volumes_sent = 0
        self._baselines: dict[str, Any] = {}
        self._shown_front: Front | None = None
        self._next_leaderboard = 0.0
        self._started = False
        self._warned = False
        self._quiet_until = 0.0

    def trials_changed(self, numbers: Iterable[int]) -> None:
        """Send what is new of these trials; what could not be sent goes along with the next one, or at the end."""
        self._unsent.update(numbers)
        if time.monotonic() >= self._quiet_until:
            self._deliver(self._send_news)

    def sweep_ended(self, *, complete: bool) -> None:
        """Write the report, and send everything that MLflow lacks.

        Args:
            complete: Whether all trials of the sweep have ended.
        """
        records = self.study.records()
        files = write_sweep_report(self.sweep, self.folder, self.study)
        front = sweep_front(self.sweep, self.folder, records)
        write_json(self.folder.path / "front.json", front)
        summary = SweepSummary({**self.ledger.counts}, front, leaderboard(front), files, "FINISHED" if complete else "KILLED")
        # Trials of earlier starts too: MLflow may have been away at their end, or the driver dead.
        self._unsent.update(self.ledger.records)

        def send() -> None:
            self._send_trials()
            for side in (*map(confirmation_run, read_confirmations(self.folder)), *map(audit_run, read_audits(self.folder))):
                self.tracker.sync_side_run(side)
            self.tracker.sync_summary(summary)

        self._deliver(send)

    def sweep_terminated(self) -> None:
        """Say in MLflow that the sweep has ended for now; for the rest there is no time, and the next start does it."""
        if self._started and time.monotonic() >= self._quiet_until:
            self._deliver(lambda: self.tracker.sync_status("KILLED"))

    def _send_news(self) -> None:
        self._send_trials()
        self._send_leaderboard()

    def _send_trials(self) -> None:
        if not self._started:
            self._datasets = self._describe_datasets() if self._datasets is None else self._datasets
            self.tracker.sync_parent(SweepInfo(self.sweep, self._data_digest, self._provenance, self._datasets))
            self._note_view(self.tracker.write_view(self.sweep))
            self._started = True
        members = self.ledger.reported_front.members
        for number in sorted(self._unsent):
            record = self.ledger.records[number]
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
            self.tracker.sync_samples(record.trial_id, self.folder.trial_samples(record.trial_id))
            self._unsent.discard(number)
        new = self.ledger.hypervolumes[self._volumes_sent :]
        if new:
            self.tracker.sync_hypervolumes(self._volumes_sent + 1, new)
            self._volumes_sent += len(new)

    def _send_leaderboard(self) -> None:
        """Show the front as it stands, where it has moved; made of what the ledger knows, so that long sweeps do not slow down."""
        front = self.ledger.reported_front
        if time.monotonic() < self._next_leaderboard or (self._shown_front and front.keys == self._shown_front.keys):
            return
        self._baselines = self._baselines or {name: baseline.metrics() for name, baseline in read_baselines(self.folder).items()}
        counts = {**self.ledger.counts}
        shown = front_as_json(self.sweep.name, front, counts, self._baselines)
        self.tracker.sync_leaderboard(counts, leaderboard(shown))
        self._shown_front, self._next_leaderboard = front, time.monotonic() + LEADERBOARD_EVERY_S

    def _describe_datasets(self) -> tuple[DatasetInfo, ...]:
        try:
            return describe_datasets(self.sweep.data, load_benchmark(self.sweep.data, redact=self.sweep.redact))
        except UserError as error:
            # Files that were there when the sweep began have gone since: the digest says what they were.
            logger.warning("MLflow is not told the data sets: %s", error)
            return ()

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
                self.warn(f"warning: {error}. The sweep goes on; MLflow gets the rest at the end, or at the next `lethe run`.")


def sweep_front(sweep: SweepSettings, folder: SweepFolder, records: Sequence[TrialRecord]) -> dict:
    """The front as `lethe front --json` prints it, baselines and what audits found included."""
    baselines = {name: baseline.metrics() for name, baseline in read_baselines(folder).items()}
    return front_json(sweep, records, baselines) | {"audits": {audit.name: audit_columns(audit) for audit in read_audits(folder)}}


def write_sweep_report(sweep: SweepSettings, folder: SweepFolder, study: Study) -> tuple[Path, Path]:
    """Write the report from the study. Returns: the HTML file and the picture."""
    baselines = {name: baseline.metrics() for name, baseline in read_baselines(folder).items()}
    importances = {objective.name: study.importances(objective.name) for objective in objectives_of(sweep)}
    view = SweepView(sweep, study.records(), baselines, importances, read_confirmations(folder), read_audits(folder))
    return write_report(folder.path, view)


def closing_lines(sweep: SweepSettings, folder: SweepFolder, records: Sequence[TrialRecord], uri: str) -> list[str]:
    """What the last lines of a run say: the front, what failed, where the report is, how to open MLflow."""
    objectives = objectives_of(sweep)
    front = build_front(records, criteria_of(sweep))
    failed = [record for record in records if record.status == "failed"]
    stopped = sum(record.status == "stopped" for record in records)
    lines = [f"Pareto front on the test part: {_members(front)} of {len(records)} trials, hypervolume {front.hypervolume:.4f}"]
    lines += [f"  {member.name}: {_values(dict(member.objectives))}" for member in front.members[:MOST_MEMBERS_SHOWN]]
    if len(front.members) > MOST_MEMBERS_SHOWN:
        lines.append(f"  and {len(front.members) - MOST_MEMBERS_SHOWN} more")
    for name, baseline in read_baselines(folder).items():
        values = objective_values(baseline.metrics(), objectives, "test")
        lines += [f"  {name} model: {_values(values)}"] if values else []
    if stopped:
        lines.append(f"{stopped} trial{'s' * (stopped > 1)} stopped at a rung before the last: see `lethe status {sweep.name}`")
    if failed:
        lines.append(f"{len(failed)} trial{'s' * (len(failed) > 1)} failed; the first, {failed[0].trial_id}: {failed[0].reason}")
    storage = "" if folder.root == Path("lethe-runs").resolve() else f" --storage {quote(str(folder.root))}"
    lines.append(f"table: lethe front {sweep.name}{storage}")
    lines.append(f"report: {folder.path / 'report.html'} (picture: {folder.path / 'front.png'})")
    lines.append(_way_to_mlflow(sweep.name, folder, uri))
    return lines


def _way_to_mlflow(name: str, folder: SweepFolder, uri: str) -> str:
    """How to open MLflow: on the saved view where there is one."""
    file = folder.path / VIEW_FILE
    view = json.loads(file.read_text()) if file.is_file() else {}
    path = view["path"] if view.get("uri") == redacted(uri) else ""
    if not uri.startswith("http"):
        return f"MLflow: mlflow ui --backend-store-uri {quote(redacted(uri))}, then open http://127.0.0.1:5000{path}"
    if not path:
        return f"MLflow: {redacted(uri)}, experiment {EXPERIMENT}, run {name}"
    parts = urlsplit(uri)
    # A browser asks for the name and password itself.
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}{path}"
    return f"MLflow: {address} (experiment {EXPERIMENT}, run {name})"


def _members(front: Front) -> str:
    trials = len(front.trial_ids)
    rungs = f" ({len(front.members)} rungs)" if len(front.members) != trials else ""
    return f"{trials}{rungs}"


def _values(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())
