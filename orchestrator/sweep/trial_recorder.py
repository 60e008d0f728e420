"""Records trial events in the study, the sweep state and the logs, and decides which trials go on at rungs.

No framework is imported here: Ray Tune and the simulation call the same recorder.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from orchestrator.lanes.job_queue import LanesSnapshot
from orchestrator.search.budget import StopCriterion
from orchestrator.search.early_stopping import RungDecider
from orchestrator.search.study import Study
from orchestrator.search.sweep_state import SweepState
from orchestrator.storage.cleaning import drop_unfinished
from orchestrator.storage.sweep_folder import SweepFolder
from orchestrator.storage.trial_records import TrialRecord, trial_id
from trainables.events import (
    Event,
    Failed,
    Finished,
    JobRestarted,
    LineLogged,
    Lost,
    Outcome,
    RungDecision,
    RungReached,
    RungTested,
    StepDone,
    Stopped,
)

logger = logging.getLogger(__name__)


class TrialObserver(Protocol):
    """Shows people what happens to trials."""

    def say(self, line: str) -> None:
        """Print one line that stays."""

    def rung(self, record: TrialRecord, rung: int) -> None:
        """Show a trial that has reached a rung."""

    def trial_ended(self, record: TrialRecord) -> None:
        """Show a trial that has ended; the sweep state holds its result already."""


class Observer(TrialObserver, Protocol):
    """Shows people what happens during one start of a sweep."""

    def stage(self, name: str, progress: StepDone | None = None) -> None:
        """Show the current stage, and how far it is."""

    def sweep_opened(self, sweep_state: SweepState) -> None:
        """Take the state of the study that has been opened; it follows all later changes."""

    def lanes_counted(self, lanes: int) -> None:
        """Take the number of lanes that will run the trials."""

    def lanes_watched(self, snapshot: Callable[[], LanesSnapshot] | None) -> None:
        """Take the function that returns what the lanes are doing; None when the lanes end."""


class TrialRecorder:
    """Records the trials of one start of a sweep.

    Args:
        study: Study of the sweep; it is written first, and everything else follows from it.
        sweep_state: State that follows the study.
        folder: Folder of the sweep, for logs and weights.
        decide: Decides which rungs are kept and which trials are stopped.
        stop_criterion: Gives the reason why the sweep ends, once it does.
        observer: Shows every rung and every end of a trial.
        on_change: Receives the numbers of trials that have changed; must return at once.
    """

    def __init__(
        self,
        study: Study,
        sweep_state: SweepState,
        folder: SweepFolder,
        decide: RungDecider,
        stop_criterion: StopCriterion,
        observer: TrialObserver,
        on_change: Callable[[Iterable[int]], object] = lambda numbers: None,
    ) -> None:
        self.study = study
        self.sweep_state = sweep_state
        self.folder = folder
        self.decide = decide
        self.stop_criterion = stop_criterion
        self.observer = observer
        self.on_change = on_change
        self.lost: str | None = None
        """Reason why the lanes are gone; None while they are not."""

    def tidy(self) -> None:
        """Remove dominated weights and old checkpoints, which a killed driver may have left."""
        drop_unfinished(self.folder, self.sweep_state.records.values())
        self._drop_dominated_weights(
            record.trial_id for record in self.sweep_state.records.values() if record.ended
        )

    def started(self, number: int) -> None:
        """Note that a trial has been given to the lanes."""
        self.sweep_state.update(self.study.record(number))

    def take(self, number: int, event: Event) -> RungDecision | None:
        """Record one event of a trial.

        Returns:
            The decision about a rung; None for all other events.
        """
        match event:
            case LineLogged():
                self._log(number, event.line)
            case JobRestarted():
                self._log(number, event.line)
                self.observer.say(f"{trial_id(number)}: {event.line}")
            case RungReached():
                return self._rung(number, event)
            case RungTested():
                self.study.tell_test(number, event.rung, event.metrics)
                self.sweep_state.update(self.study.record(number))
            case StepDone():
                # Steps are shown live from the lanes' snapshot, and leave no trace.
                pass
        return None

    def _rung(self, number: int, event: RungReached) -> RungDecision:
        rung, rungs, metrics = event.rung, event.rungs, event.metrics
        self.study.tell_rung(number, rung, metrics)
        record = self.study.record(number)
        self.sweep_state.update(record)
        decision = self.decide.decide(record, rung, rungs)
        reason = self.stop_criterion.reason() or self.stop_criterion.out_of_time(record)
        if reason is not None:
            decision = RungDecision(go_on=False, keep=decision.keep, reason=reason)
        criteria = self.sweep_state.criteria
        names = [objective.name for objective in criteria.objectives]
        values = {name: metrics[f"validation/{name}"] for name in names if f"validation/{name}" in metrics}
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        kept = "; kept" if decision.keep else ""
        stops = "" if decision.go_on or rung == rungs else f"; stopped: {decision.reason}"
        self._log(number, f"rung {rung} of {rungs}: {shown}{kept}{stops}")
        self.observer.rung(record, rung)
        self.on_change([number])
        return decision

    def end(self, number: int, outcome: Outcome) -> None:
        """Record the outcome of a trial, and remove what is not needed any more."""
        match outcome:
            case Lost():
                # The study keeps it as running, so that the next start runs it again, as the same trial.
                self.lost = outcome.reason
                return
            case Finished():
                self._note_seconds(number, outcome.result)
                self.study.finish(number)
            case Stopped():
                self._note_seconds(number, outcome.result)
                self.study.stop(number, outcome.reason)
            case Failed():
                self.study.fail(number, outcome.reason)
        record = self.study.record(number)
        chosen, members = self.sweep_state.front.chosen, self.sweep_state.reported_front.keys
        self.sweep_state.update(record)
        self._log(number, f"{record.status}: {record.reason}" if record.reason else record.status)
        # Weights of running trials stay: a trial may still need what it has kept, and its end comes here too.
        changed = (chosen ^ self.sweep_state.front.chosen) | (members ^ self.sweep_state.reported_front.keys)
        moved = {name for name, _ in changed}
        self._drop_dominated_weights({record.trial_id, *moved})
        drop_unfinished(self.folder, [record])
        self.observer.trial_ended(record)
        self.on_change({number, *(int(name[1:]) for name in moved)})

    def _note_seconds(self, number: int, result: Mapping[str, Any]) -> None:
        if "seconds" in result:
            self.study.annotate(number, "seconds", dict(result["seconds"]))

    def _drop_dominated_weights(self, trials: Iterable[str]) -> None:
        chosen = self.sweep_state.front.chosen
        for name in trials:
            for weights in self.folder.kept_weights(name):
                if (name, int(weights.name.removeprefix("rung"))) not in chosen:
                    shutil.rmtree(weights)

    def _log(self, number: int, line: str) -> None:
        path = self.folder.trial_log(trial_id(number))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
