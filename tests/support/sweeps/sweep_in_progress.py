"""A sweep while it runs, without Ray or torch: a real recorder and study, and lanes that a test plays."""

from types import SimpleNamespace

from orchestrator.pareto.objectives import criteria_of
from orchestrator.search.budget import StopCriterion
from orchestrator.search.early_stopping import RungDecider
from orchestrator.search.sweep_state import SweepState
from orchestrator.storage.trial_records import trial_id
from orchestrator.sweep.trial_recorder import TrialRecorder
from tests.support.sweeps.sweep_on_disk import begin, measured
from trainables.events import Failed, Finished, Lost, RungReached, RungTested, Stopped

SECONDS = {"steps": 1.5}


class Observer:
    """Records what people would be shown."""

    def __init__(self):
        self.shown = []

    def rung(self, record, rung):
        self.shown.append((record.trial_id, f"rung {rung}", record.rungs[rung - 1]))

    def trial_ended(self, record):
        self.shown.append((record.trial_id, record.status, record.reason))

    def say(self, line):
        self.shown.append(line)


class SweepStart(SimpleNamespace):
    """One start of a sweep, with the lanes' part played by its methods.

    Attributes:
        recorder: The recorder, on `study`, `sweep_state` and `folder`.
        observer: What people would be shown.
        changes: Numbers of the changed trials, a list for each call of `on_change`.
    """

    def take(self, number, event):
        """Passes an event of a trial to the recorder."""
        return self.recorder.take(number, event)

    def begin(self):
        """Starts a new trial, and returns its number."""
        number = self.study.ask().number
        self.recorder.started(number)
        return number

    def rung(self, number, rung, rungs, validation, test=None):
        """Lets a trial reach a rung and do what is decided, and returns the decision.

        At the last rung both parts are measured before the decision. `test` is `validation` if left out.
        """
        both = measured(*validation) | part(test or validation, "test")
        metrics = both if rung == rungs else part(validation, "validation")
        decision = self.take(number, RungReached(rung, rungs, metrics))
        if decision.keep:
            if rung < rungs:
                self.take(number, RungTested(rung, part(test or validation, "test")))
            (self.folder.weights(trial_id(number)) / f"rung{rung}").mkdir(parents=True, exist_ok=True)
        return decision

    def end(self, number, status="finished", reason=None):
        """Ends a trial."""
        outcomes = {
            "finished": Finished({"seconds": SECONDS}),
            "stopped": Stopped(reason, {"seconds": SECONDS}),
            "failed": Failed(reason),
            "lost": Lost(reason),
        }
        self.recorder.end(number, outcomes[status])

    def run(self, *points):
        """Runs a whole trial, and returns its number.

        Args:
            points: One for each rung; a pair of points where validation and test part differ.
        """
        number = self.begin()
        for rung, point in enumerate(points, start=1):
            validation, test = point if isinstance(point[0], tuple) else (point, point)
            decision = self.rung(number, rung, len(points), validation, test)
            if not decision.go_on and rung < len(points):
                self.end(number, "stopped", decision.reason)
                return number
        self.end(number)
        return number

    def log(self, number):
        """Returns the lines of a trial's log without their times."""
        lines = self.folder.trial_log(trial_id(number)).read_text().splitlines()
        return [line.split(" ", 2)[2] for line in lines]

    def kept(self):
        """Returns trial ids and rungs whose weights are on the disk."""
        return {
            (path.parents[1].name, int(path.name.removeprefix("rung")))
            for path in self.folder.path.glob("trials/*/weights/*")
        }


def part(point, name):
    """Returns the metrics of one part of a measurement."""
    return {key: value for key, value in measured(*point).items() if key.startswith(name)}


def start_sweep(root, sweep=None, clock=lambda: 0.0):
    """Starts the sweep in `root`, for the first time or again."""
    folder, sweep, study = begin(root, sweep)
    sweep_state = SweepState(criteria_of(sweep), sweep.resources.workers_per_trial, study.records())
    stop_criterion = StopCriterion(sweep.budget, sweep_state, folder.stop_request, clock=clock)
    observer, changes = Observer(), []
    recorder = TrialRecorder(
        study,
        sweep_state,
        folder,
        RungDecider(sweep, sweep_state),
        stop_criterion,
        observer,
        lambda numbers: changes.append(sorted(numbers)),
    )
    return SweepStart(
        recorder=recorder,
        study=study,
        folder=folder,
        sweep_state=sweep_state,
        observer=observer,
        changes=changes,
    )
