"""A sweep on a virtual clock: the real study, verdicts, budgets and front; only Ray, the lanes and the
training are made up.

Lanes are generators that yield the seconds until something happens next. Nobody sleeps, so an hour of a sweep
takes seconds.
"""

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from orchestrator.pareto.objectives import criteria_of
from orchestrator.search.budget import StopCriterion, wall_s_of_earlier_starts
from orchestrator.search.early_stopping import RungDecider
from orchestrator.search.study import Study
from orchestrator.search.sweep_state import SweepState
from orchestrator.simulation.learning_curves import LearningCurves
from orchestrator.simulation.recording import Seconds
from orchestrator.storage.sweep_folder import SweepFolder
from orchestrator.storage.trial_records import ProposedTrial, TrialRecord
from orchestrator.sweep.trial_recorder import TrialObserver, TrialRecorder
from search_spaces.settings.space import apply
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.settings.trial_settings import TrialSettings
from trainables.events import RungDecision

Metrics = dict[str, float]
Take = Callable[[int, Mapping[str, Any]], RungDecision | None]
"""`TrialRecorder.take`."""

ORIGIN_S = 1_767_225_600.0
"""Unix time at which virtual time begins: the start of 2026. A fixed one, so that a simulation repeated is
the same again."""


class VirtualClock:
    """Tells the time of a simulation; whoever runs it moves the hands."""

    def __init__(self, now_s: float = ORIGIN_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        """Unix time in seconds."""
        return self.now_s


class Stopwatch:
    """Adds up real time while it is on."""

    def __init__(self) -> None:
        self._total_s = 0.0
        self._since: float | None = None

    def start(self) -> None:
        """Turn it on."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Turn it off."""
        self._total_s, self._since = self.seconds, None

    @property
    def seconds(self) -> float:
        """Time so far."""
        return self._total_s + (0.0 if self._since is None else time.perf_counter() - self._since)


def run_lanes(lanes: Sequence[Iterator[float]], clock: VirtualClock) -> None:
    """Run lanes side by side until all have ended.

    Args:
        lanes: Each yields the seconds after which it wants to go on; of those due at one time, the first goes
            on first.
        clock: Shows a lane the time at which it goes on.
    """
    due = [(clock.now_s, number) for number in range(len(lanes))]
    while due:
        clock.now_s, number = heapq.heappop(due)
        wait_s = next(lanes[number], None)
        if wait_s is not None:
            heapq.heappush(due, (clock.now_s + wait_s, number))


class SilentObserver:
    """An observer that ignores every event."""

    def rung(self, record: TrialRecord, rung: int) -> None:
        """A trial has reached a rung."""

    def trial_ended(self, record: TrialRecord) -> None:
        """A trial has ended."""

    def say(self, line: str) -> None:
        """Something happened."""


class VirtualSweep:
    """One start of a simulated sweep; one that was cut off goes on where it was.

    Args:
        sweep: Settings that `check_covered` has passed.
        folder: Where it goes, as an ordinary sweep folder that is there already.
        lanes: Trials at a time.
        curves: What trials measure.
    """

    def __init__(self, sweep: SweepSettings, folder: SweepFolder, lanes: int, curves: LearningCurves) -> None:
        self.sweep, self.folder, self.lanes, self.curves = sweep, folder, lanes, curves
        self.clock = VirtualClock()
        self.study = Study.open(folder.journal, sweep, clock=self.clock)
        records = self.study.records()
        self.clock.now_s = max((record.finished_at or ORIGIN_S for record in records), default=ORIGIN_S)
        self.sweep_state = SweepState(criteria_of(sweep), sweep.resources.workers_per_trial, records)
        self.stop_criterion = StopCriterion(
            sweep.budget, self.sweep_state, folder.stop_request, wall_s_of_earlier_starts(records), self.clock
        )
        self.asked = 0
        """Trials that were handed out since it was opened."""
        self.driver = Stopwatch()
        """Runs while the driver works, and not while results are made up."""

    def run(self, observer: TrialObserver | None = None) -> None:
        """Run what remains.

        Args:
            observer: Shown every rung and end.
        """
        decide = RungDecider(self.sweep, self.sweep_state)
        recorder = TrialRecorder(
            self.study,
            self.sweep_state,
            self.folder,
            decide,
            self.stop_criterion,
            observer or SilentObserver(),
        )
        self.driver.start()
        run_lanes([self._lane(recorder) for _ in range(self.lanes)], self.clock)
        self.driver.stop()

    def _lane(self, recorder: TrialRecorder) -> Iterator[float]:
        while self.stop_criterion.reason() is None and (asked := self.study.ask()) is not None:
            self.asked += 1
            recorder.started(asked.number)
            yield from self._trial(asked, recorder.take)

    def _trial(self, asked: ProposedTrial, take: Take) -> Iterator[float]:
        """What a lane does with a trial: see `trainables.training.trial.run_trial`."""
        seconds, measured = self._made_up(apply(self.sweep.trial, asked.params))
        number, rungs = asked.number, len(measured)
        spent: Counter[str] = Counter()

        def spend(**phases: float) -> float:
            spent.update(phases)
            return sum(phases.values())

        yield seconds.setup
        outcome = {"event": "outcome", "status": "finished", "seconds": spent}
        for rung, (validation, test) in enumerate(measured, 1):
            last = rung == rungs
            yield spend(
                steps=seconds.steps / rungs,
                beliefs=seconds.beliefs / rungs,
                evaluation=seconds.evaluation * (1 + last),
            )
            decision = take(
                number,
                {
                    "event": "rung",
                    "rung": rung,
                    "rungs": rungs,
                    "metrics": validation | test if last else validation,
                },
            )
            assert decision is not None, "a rung always gets a verdict"
            if decision.keep and not last:
                yield spend(evaluation=seconds.evaluation)
                take(number, {"event": "test", "rung": rung, "metrics": test})
            if not decision.go_on and not last:
                outcome |= {"status": "stopped", "reason": decision.reason}
                break
        take(number, outcome)

    def _made_up(self, trial: TrialSettings) -> tuple[Seconds, list[tuple[Metrics, Metrics]]]:
        """Times of a trial, and at each rung what both parts would show."""
        self.driver.stop()
        curve = self.curves.of(trial)
        done = [rung / trial.rungs for rung in range(1, trial.rungs + 1)]
        measured = [(curve.metrics(frac, "validation"), curve.metrics(frac, "test")) for frac in done]
        self.driver.start()
        return curve.seconds, measured
