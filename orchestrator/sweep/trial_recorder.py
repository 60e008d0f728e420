"""Takes what happens to trials into the study, the ledger and the logs, and gives the verdicts on rungs.
Knows no framework."""

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from orchestrator.search.budget import StopCriterion
from orchestrator.search.early_stopping import RungDecider
from orchestrator.search.study import Study
from orchestrator.search.sweep_state import SweepState
from orchestrator.storage.cleaning import drop_unfinished
from orchestrator.storage.sweep_folder import SweepFolder
from orchestrator.storage.trial_records import TrialRecord, trial_id
from trainables.events import RungDecision

logger = logging.getLogger(__name__)


Snapshot = Callable[[], Mapping[str, Any]]
"""Returns what the lanes are doing: `running` (trial -> lane, step, steps, loss), `queued` and `lanes`."""


class TrialObserver(Protocol):
    """Shows people what happens to trials."""

    def say(self, line: str) -> None:
        """Print one line that stays."""

    def rung(self, record: TrialRecord, rung: int) -> None:
        """A trial has reached a rung."""

    def trial_ended(self, record: TrialRecord) -> None:
        """A trial has ended; the ledger holds its result already."""


class Observer(TrialObserver, Protocol):
    """Shows people what happens in one start of a sweep."""

    def stage(self, name: str, progress: Mapping[str, Any] | None = None) -> None:
        """Name what is going on, and how far it is."""

    def sweep_opened(self, sweep_state: SweepState) -> None:
        """The study is open: from now on `sweep_state` follows it."""

    def lanes_counted(self, lanes: int) -> None:
        """So many lanes will run the trials."""

    def lanes_watched(self, snapshot: Snapshot | None) -> None:
        """What the lanes are doing can be asked for; None: no longer."""


class TrialRecorder:
    """One per start of a sweep.

    Args:
        study: The truth, written first.
        ledger: What follows from it.
        folder: Where logs and weights lie.
        judge: Decides who is kept, and who is stopped.
        ending: Why the sweep is ending, where it is.
        observer: Shown every rung and end.
        on_change: Told the numbers of trials that changed; must return at once.
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
        self.study, self.sweep_state, self.folder, self.decide, self.stop_criterion = (
            study,
            sweep_state,
            folder,
            decide,
            stop_criterion,
        )
        self.observer, self.on_change = observer, on_change
        self.lost: str | None = None
        """Why the lanes are gone, when they are."""

    def tidy(self) -> None:
        """Drop dominated weights and checkpoints that an earlier driver left, killed between a trial's end
        and this."""
        drop_unfinished(self.folder, self.sweep_state.records.values())
        self._drop_dominated_weights(
            record.trial_id for record in self.sweep_state.records.values() if record.ended
        )

    def started(self, number: int) -> None:
        """A trial is handed out."""
        self.sweep_state.update(self.study.record(number))

    def take(self, number: int, event: Mapping[str, Any]) -> RungDecision | None:
        """Take one event of a trial: `log`, `again` (it starts again), `rung`, `test` or `outcome`.

        Returns:
            The verdict on a rung; None for all other events.
        """
        match event["event"]:
            case "log":
                self._log(number, event["line"])
            case "again":
                self._log(number, event["line"])
                self.observer.say(f"{trial_id(number)}: {event['line']}")
            case "rung":
                return self._rung(number, event["rung"], event["rungs"], event["metrics"])
            case "test":
                self.study.tell_test(number, event["rung"], event["metrics"])
                self.sweep_state.update(self.study.record(number))
            case "outcome":
                self._end(number, event)
        return None

    def _rung(self, number: int, rung: int, rungs: int, metrics: Mapping[str, float]) -> RungDecision:
        self.study.tell_rung(number, rung, metrics)
        record = self.study.record(number)
        self.sweep_state.update(record)
        decision = self.decide.decide(record, rung, rungs)
        reason = self.stop_criterion.reason() or self.stop_criterion.out_of_time(record)
        if reason is not None:
            decision = RungDecision(go_on=False, keep=decision.keep, reason=reason)
        criteria = self.sweep_state.criteria
        shown = ", ".join(
            f"{o.name} {metrics[key]:.4g}"
            for o in criteria.objectives
            if (key := f"validation/{o.name}") in metrics
        )
        stops = "" if decision.go_on or rung == rungs else f"; stopped: {decision.reason}"
        self._log(number, f"rung {rung} of {rungs}: {shown}{'; kept' * decision.keep}{stops}")
        self.observer.rung(record, rung)
        self.on_change([number])
        return decision

    def _end(self, number: int, outcome: Mapping[str, Any]) -> None:
        if outcome["status"] == "lost":
            # Left running in the study: the next start runs it again, as the same trial.
            self.lost = outcome["reason"]
            return
        if "seconds" in outcome:
            self.study.annotate(number, "seconds", dict(outcome["seconds"]))
        match outcome["status"]:
            case "finished":
                self.study.finish(number)
            case "stopped":
                self.study.stop(number, outcome["reason"])
            case _:
                self.study.fail(number, outcome["reason"])
        record = self.study.record(number)
        chosen, members = self.sweep_state.front.chosen, self.sweep_state.reported_front.keys
        self.sweep_state.update(record)
        self._log(number, f"{record.status}{f': {record.reason}' if record.reason else ''}")
        # A trial that runs may still need what it has kept, and is looked at when it ends.
        moved = {
            name
            for name, _ in (chosen ^ self.sweep_state.front.chosen)
            | (members ^ self.sweep_state.reported_front.keys)
        }
        self._drop_dominated_weights({record.trial_id, *moved})
        drop_unfinished(self.folder, [record])
        self.observer.trial_ended(record)
        self.on_change({number, *(int(name[1:]) for name in moved)})

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
