"""A sweep while it runs, without Ray or torch: a real recorder on a real study, and lanes that do what they
are told."""

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
    """Remembers what people were shown."""

    def __init__(self):
        self.shown = []

    def rung(self, record, rung):
        self.shown.append((record.trial_id, f"rung {rung}", record.rungs[rung - 1]))

    def trial_ended(self, record):
        self.shown.append((record.trial_id, record.status, record.reason))

    def say(self, line):
        self.shown.append(line)


class Recording(SimpleNamespace):
    """One start of a sweep: `recorder` and what it stands on, `changes` that it told of, and `observer`."""

    def take(self, number, event):
        """One event of a trial."""
        return self.recorder.take(number, event)

    def begin(self):
        """The number of a new trial that is handed out."""
        number = self.study.ask().number
        self.recorder.started(number)
        return number

    def rung(self, number, rung, rungs, validation, test=None):
        """A lane reaches a rung and does what was decided; at the last one it has measured both parts.
        Returns: the decision."""
        both = measured(*validation) | part(test or validation, "test")
        metrics = both if rung == rungs else part(validation, "validation")
        decision = self.take(number, RungReached(rung, rungs, metrics))
        if decision.keep:
            if rung < rungs:
                self.take(number, RungTested(rung, part(test or validation, "test")))
            (self.folder.weights(trial_id(number)) / f"rung{rung}").mkdir(parents=True, exist_ok=True)
        return decision

    def end(self, number, status="finished", reason=None):
        """A lane says how a trial ended."""
        outcomes = {
            "finished": Finished({"seconds": SECONDS}),
            "stopped": Stopped(reason, {"seconds": SECONDS}),
            "failed": Failed(reason),
            "lost": Lost(reason),
        }
        self.recorder.end(number, outcomes[status])

    def run(self, *points):
        """A whole trial, a rung for each point, or a pair of points that differ between the parts. Returns:
        its number."""
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
        """Lines of a trial's log without their times."""
        return [
            line.split(" ", 2)[2] for line in self.folder.trial_log(trial_id(number)).read_text().splitlines()
        ]

    def kept(self):
        """Trials and rungs whose weights are there."""
        return {
            (path.parents[1].name, int(path.name.removeprefix("rung")))
            for path in self.folder.path.glob("trials/*/weights/*")
        }


def part(point, name):
    """A measurement of one part alone."""
    return {key: value for key, value in measured(*point).items() if key.startswith(name)}


def recording(root, sweep=None, clock=lambda: 0.0):
    """A start of the sweep in `root`, also a later one."""
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
    return Recording(
        recorder=recorder,
        study=study,
        folder=folder,
        sweep_state=sweep_state,
        observer=observer,
        changes=changes,
    )
