"""Shows the progress of a running sweep: a live table on a terminal, plain lines elsewhere.

Plain output is never silent for long: a log without news looks like a sweep that hangs.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as RichTable
from rich.text import Text

from orchestrator.lanes.job_queue import LanesSnapshot
from orchestrator.pareto.front import Front
from orchestrator.pareto.objectives import Objective
from orchestrator.search.sweep_state import SweepState
from orchestrator.storage.trial_records import TrialRecord
from orchestrator.table import Table, columns
from orchestrator.terminal.rich_tables import rich_table, say
from trainables.events import StepDone

PLAIN_EVERY_S = 5.0
"""Seconds between plain lines while no event is printed."""

REFRESH_S = 0.5
"""Seconds between queries of the lanes' state."""

SHOWN_ENDED = 8
"""Number of ended trials in the live table."""


class LiveProgress:
    """An `Observer` that shows stages, running and ended trials, hypervolume and time left.

    Use it as a context manager.

    Args:
        console: Where to show it.
        sweep_state: The sweep's trials, replaced by `sweep_opened` once the study has been opened.
        trials: Number of trials of the whole sweep.
    """

    def __init__(self, console: Console, sweep_state: SweepState, trials: int) -> None:
        self.console, self.sweep_state, self.trials = console, sweep_state, trials
        self.snapshot: Callable[[], LanesSnapshot] | None = None
        self.lanes = 1
        self._stage = "starting"
        self._stage_since = time.monotonic()
        self._stage_progress: StepDone | None = None
        self._seen: LanesSnapshot | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="live progress", daemon=True)
        self._live = (
            Live(console=console, refresh_per_second=4, transient=True, get_renderable=self._render)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._live:
            self._live.stop()

    def say(self, line: str) -> None:
        """Prints one line that stays."""
        say(self.console, line)

    def stage(self, name: str, progress: StepDone | None = None) -> None:
        """Shows the current stage; a new name is printed, the same name only updates its progress."""
        with self._lock:
            changed, self._stage_progress = name != self._stage, progress
            if changed:
                self._stage, self._stage_since = name, time.monotonic()
        if changed:
            self.say(f"{name} ...")

    def sweep_opened(self, sweep_state: SweepState) -> None:
        """Shows the trials of this state in place of those of the empty state at the start."""
        self.sweep_state = sweep_state

    def lanes_counted(self, lanes: int) -> None:
        """Takes the number of lanes, by which the time left is estimated."""
        self.lanes = lanes

    def lanes_watched(self, snapshot: Callable[[], LanesSnapshot] | None) -> None:
        """Shows what the lanes are doing, as `snapshot` returns it; None ends it."""
        self.snapshot = snapshot

    def rung(self, record: TrialRecord, rung: int) -> None:
        """Prints the values of a running trial that was evaluated at a rung."""
        if not self._live:
            self.say(f"  {record.trial_id} rung {rung}: {self._values(record.rungs[rung - 1], 'validation')}")

    def trial_ended(self, record: TrialRecord) -> None:
        """Prints the result of a trial that has ended; the sweep state holds it already."""
        front = self.sweep_state.reported_front
        result = (
            self._values(record.metrics, "test")
            if record.status == "finished"
            else f"{record.status}: {record.reason}"
        )
        rungs = _rungs_on(front, record)
        place = f", on the front at rung {', '.join(map(str, rungs))}" if rungs else ""
        took = f"{record.duration_s or 0:.1f} s"
        state = ", ".join(part for part in (f"hypervolume {front.hypervolume:.4f}", self._left()) if part)
        self.say(
            f"{record.trial_id} [{self.sweep_state.ended}/{self.trials}] {_settings(record)}: {result}{place}"
            f" ({took}) | {state}"
        )

    def _values(self, metrics: Mapping[str, float], part: str) -> str:
        names = [objective.name for objective in self.sweep_state.criteria.objectives]
        return ", ".join(
            f"{name} {metrics[f'{part}/{name}']:.3f}" for name in names if f"{part}/{name}" in metrics
        )

    def _left(self) -> str:
        seconds = seconds_left(self.sweep_state, self.trials, self.lanes)
        return f"about {duration(seconds)} left" if seconds else ""

    def _loop(self) -> None:
        next_line = time.monotonic() + PLAIN_EVERY_S
        while not self._stop.wait(REFRESH_S):
            snapshot = self.snapshot
            # Ray may take long to answer, so the lock is not held meanwhile.
            seen = None if snapshot is None else snapshot()
            with self._lock:
                self._seen = seen
            if not self._live and time.monotonic() >= next_line:
                next_line = time.monotonic() + PLAIN_EVERY_S
                self.say(self._heartbeat())

    def _heartbeat(self) -> str:
        running = {} if self._seen is None else self._seen.running
        jobs = [f"{name} {_steps(job.progress) or 'is being set up'}" for name, job in running.items()]
        return f"  {'; '.join(jobs) or self._what_now()}"

    def _what_now(self) -> str:
        # The first lane takes a while to start, and no other stage shows it when no model has to be prepared.
        waiting = self._seen is not None and not self._seen.lanes
        name = "waiting for the first lane's workers" if waiting else self._stage
        parts = (
            f"{name}: {duration(time.monotonic() - self._stage_since)}",
            _steps(self._stage_progress),
            self._left(),
        )
        return ", ".join(part for part in parts if part)

    def _render(self) -> Group:
        sweep_state, objectives = self.sweep_state, self.sweep_state.criteria.objectives
        running = {} if self._seen is None else self._seen.running
        stage = Text(self._what_now())
        if not sweep_state.ended and not running:
            line = RichTable.grid(padding=(0, 1))
            line.add_row(*([] if self._stage_progress is None else [_bar(self._stage_progress)]), stage)
            return Group(line)
        front = sweep_state.reported_front
        names = [objective.name for objective in objectives]
        # The driver's thread changes the containers of the state meanwhile: only copies are iterated.
        rows = [
            [
                record.trial_id,
                _settings(record),
                _mark(record, front),
                *_shown_values(record, objectives),
                f"{record.duration_s or 0:.0f} s",
            ]
            for record in list(sweep_state.newest_ended)[-SHOWN_ENDED:]
        ]
        started = {record.trial_id: record for record in list(sweep_state.running.values())}
        for name, job in running.items():
            took = f"{time.time() - job.started_at:.0f} s"
            settings = _settings(started[name]) if name in started else ""
            steps = _steps(job.progress) or "is being set up"
            rows.append([name, settings, steps, *("" for _ in names), took])
        table = rich_table(Table(columns("trial", "settings", "progress", *names, "time"), rows))
        count = (
            f"{sweep_state.ended} of {self.trials} trials, {len(front.members)} on the front, hypervolume"
            f" {front.hypervolume:.4f}"
        )
        return Group(table, Text(count), stage)


def seconds_left(sweep_state: SweepState, trials: int, lanes: int) -> float | None:
    """Estimates the time for the remaining trials by the mean time of ended ones; None before the first."""
    if not sweep_state.ended:
        return None
    return max(0, trials - sweep_state.ended) * sweep_state.spent_s / sweep_state.ended / max(1, lanes)


def duration(seconds: float) -> str:
    """Formats seconds: `45 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _steps(progress: StepDone | None) -> str:
    if progress is None:
        return ""
    loss = "" if progress.loss is None else f", loss {progress.loss:.3f}"
    return f"step {progress.step}/{progress.steps}{loss}"


def _bar(progress: StepDone) -> ProgressBar:
    return ProgressBar(total=max(1, progress.steps), completed=progress.step, width=20)


def _mark(record: TrialRecord, front: Front) -> str:
    rungs = _rungs_on(front, record)
    return f"on the front at rung {', '.join(map(str, rungs))}" if rungs else record.status


def _rungs_on(front: Front, record: TrialRecord) -> list[int]:
    return sorted(member.rung for member in front.members if member.record.trial_id == record.trial_id)


def _shown_values(record: TrialRecord, objectives: Sequence[Objective]) -> list[str]:
    """Returns the values of the test part at the last rung, where they were measured."""
    values = (record.metrics.get(f"test/{objective.name}") for objective in objectives)
    return ["" if value is None or record.status == "failed" else f"{value:.3f}" for value in values]


def _settings(record: TrialRecord) -> str:
    method, beliefs = record.params.get("forget.method"), record.params.get("beliefs")
    named = " + ".join(str(part) for part in (method, beliefs) if part not in (None, "none"))
    return named or ", ".join(f"{key} {value}" for key, value in list(record.params.items())[:2])
