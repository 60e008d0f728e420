"""A sweep on a virtual clock (discrete-event simulation).

Study, rung decisions, budgets and front are the real code; Ray, the lanes and the training are simulated.
Lanes are generators that yield the seconds until their next event. No process sleeps, so an hour of a sweep
takes seconds.
"""

import heapq
import time
from collections import Counter
from collections.abc import Iterator, Sequence

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
from trainables.events import Finished, Outcome, RungReached, RungTested, Stopped

Metrics = dict[str, float]
ORIGIN_S = 1_767_225_600.0
"""Unix time at which virtual time begins: the start of 2026, fixed so that simulations are repeatable."""


class VirtualClock:
    """A clock that the simulation advances by hand."""

    def __init__(self, now_s: float = ORIGIN_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        """Returns the virtual Unix time in seconds."""
        return self.now_s


class Stopwatch:
    """Sums up real time while it runs."""

    def __init__(self) -> None:
        self._total_s = 0.0
        self._since: float | None = None

    def start(self) -> None:
        """Starts the stopwatch."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Stops the stopwatch."""
        self._total_s, self._since = self.seconds, None

    @property
    def seconds(self) -> float:
        """Seconds so far, including those since the last start."""
        return self._total_s + (0.0 if self._since is None else time.perf_counter() - self._since)


def run_lanes(lanes: Sequence[Iterator[float]], clock: VirtualClock) -> None:
    """Runs lanes concurrently in virtual time until all have ended.

    Args:
        lanes: Generators that yield the seconds after which they are resumed. Of lanes that are due at the
            same time, the one with the lower position is resumed first.
        clock: Clock that is set to the time at which a lane is resumed.
    """
    # A heap of (time, lane): the number of the lane breaks ties, which keeps simulations repeatable.
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
    """One start of a simulated sweep; an interrupted sweep is resumed.

    Args:
        sweep: Settings that `check_covered` has accepted.
        folder: Folder of the sweep, which exists already.
        lanes: Number of trials that run at the same time.
        curves: Learning curves of the trials.
    """

    def __init__(self, sweep: SweepSettings, folder: SweepFolder, lanes: int, curves: LearningCurves) -> None:
        self.sweep, self.folder, self.lanes, self.curves = sweep, folder, lanes, curves
        self.clock = VirtualClock()
        self.study = Study.open(folder.journal, sweep, clock=self.clock)
        records = self.study.records()
        # A resumed sweep continues at the end of its last trial, so that times never run backwards.
        self.clock.now_s = max((record.finished_at or ORIGIN_S for record in records), default=ORIGIN_S)
        self.sweep_state = SweepState(criteria_of(sweep), sweep.resources.workers_per_trial, records)
        self.stop_criterion = StopCriterion(
            sweep.budget, self.sweep_state, folder.stop_request, wall_s_of_earlier_starts(records), self.clock
        )
        self.started_trials = 0
        """Number of trials that this start has run."""
        self.driver = Stopwatch()
        """Runs while the driver's own code works, and not while results are simulated."""

    def run(self, observer: TrialObserver | None = None) -> None:
        """Runs the remaining trials.

        Args:
            observer: Observer of every rung and of every end of a trial.
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
        # In the order of a real sweep: the stop criterion comes before each new trial.
        while self.stop_criterion.reason() is None and (proposed := self.study.ask()) is not None:
            self.started_trials += 1
            recorder.started(proposed.number)
            yield from self._trial(proposed, recorder)

    def _trial(self, proposed: ProposedTrial, recorder: TrialRecorder) -> Iterator[float]:
        """Simulates a lane that runs a trial: sends the events of `trainables.training.trial.run_trial`."""
        seconds, measured = self._simulated(apply(self.sweep.trial, proposed.params))
        number, rungs = proposed.number, len(measured)
        spent: Counter[str] = Counter()

        def spend(**phases: float) -> float:
            spent.update(phases)
            return sum(phases.values())

        yield seconds.setup
        outcome: Outcome = Finished({"seconds": spent})
        for rung, (validation, test) in enumerate(measured, 1):
            last = rung == rungs
            # The last rung measures the test part as well as the validation part.
            yield spend(
                steps=seconds.steps / rungs,
                beliefs=seconds.beliefs / rungs,
                evaluation=seconds.evaluation * (1 + last),
            )
            metrics = validation | test if last else validation
            decision = recorder.take(number, RungReached(rung, rungs, metrics))
            assert decision is not None, "a rung always gets a decision"
            # A rung that may be on the front needs its test part; the last rung has it already.
            if decision.keep and not last:
                yield spend(evaluation=seconds.evaluation)
                recorder.take(number, RungTested(rung, test))
            # A budget may run out at the last rung too; the trial is then finished and not stopped.
            if not decision.go_on and not last:
                outcome = Stopped(decision.reason, {"seconds": spent})
                break
        recorder.end(number, outcome)

    def _simulated(self, trial: TrialSettings) -> tuple[Seconds, list[tuple[Metrics, Metrics]]]:
        """Returns the times of a trial, and at each rung its metrics on the validation and the test part."""
        # A real driver does not compute results, so the stopwatch leaves this time out.
        self.driver.stop()
        curve = self.curves.of(trial)
        done = [rung / trial.rungs for rung in range(1, trial.rungs + 1)]
        measured = [(curve.metrics(frac, "validation"), curve.metrics(frac, "test")) for frac in done]
        self.driver.start()
        return curve.seconds, measured
