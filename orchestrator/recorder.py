"""Writes what happens to trials into the study, the logs and the tracker, as Tune tells it."""

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

from ray import tune

from orchestrator.front import validation_front
from orchestrator.live_progress import LiveProgress
from orchestrator.objectives import objectives_of
from orchestrator.records import TrialRecord, trial_id
from orchestrator.search import Study
from orchestrator.sweep_folder import SweepFolder
from search_spaces.sweep_settings import SweepSettings

logger = logging.getLogger(__name__)


class Recorder(tune.Callback):
    """Tune's callback. An exception here ends the sweep: right for the study, which alone holds the truth, and for nothing else."""

    def __init__(
        self, sweep: SweepSettings, study: Study, folder: SweepFolder, progress: LiveProgress, on_change: Callable[[], object]
    ) -> None:
        self.sweep, self.study, self.folder, self.progress, self.on_change = sweep, study, folder, progress, on_change
        self.objectives = objectives_of(sweep)
        self.lost: str | None = None
        """Why the lanes are gone, when they are."""

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show what the trial is about to try."""
        self.progress.trials_known(self.study.records())

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Take a rung, or the end of a trial."""
        if "number" not in result:
            return
        number = result["number"]
        self._log(number, result.get("log", []))
        if "rung" in result:
            self._rung(number, result["rung"], result["metrics"])
        if "outcome" in result:
            self._end(number, result["outcome"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A lease died: the trial itself did nothing wrong, but nobody waits for it any more."""
        number = trial.config.get("number")
        if number is not None:
            self._end(number, {"status": "failed", "reason": "the Tune actor that waited for this trial died"})

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks beside the trials; nothing is ever restored from there.
        return {}

    def _rung(self, number: int, rung: int, metrics: Mapping[str, float]) -> None:
        self.study.tell_rung(number, rung, dict(metrics))
        shown = ", ".join(
            f"{objective.name} {metrics[f'validation/{objective.name}']:.4g}"
            for objective in self.objectives
            if f"validation/{objective.name}" in metrics
        )
        self._log(number, [f"rung {rung}: {shown}"])
        self.progress.rung(trial_id(number), rung, metrics)
        self.on_change()

    def _end(self, number: int, outcome: Mapping[str, Any]) -> None:
        if outcome["status"] == "lost":
            # Left running in the study: the next start runs it again, as the same trial.
            self.lost = outcome["reason"]
            return
        if outcome["status"] == "finished":
            self.study.annotate(number, "seconds", dict(outcome["seconds"]))
            self.study.finish(number, dict(outcome["metrics"]))
        else:
            self.study.fail(number, outcome["reason"])
        records = self.study.records()
        record = records[number]
        self._log(number, [f"{record.status}{': ' + record.reason if record.reason else ''}"])
        self._drop_dominated_weights(records)
        self.progress.trial_ended(record, records)
        self.on_change()

    def _drop_dominated_weights(self, records: list[TrialRecord]) -> None:
        keep = validation_front(records, self.objectives)
        for record in records:
            weights = self.folder.weights(record.trial_id)
            if record.status != "running" and record.trial_id not in keep and weights.is_dir():
                shutil.rmtree(weights)

    def _log(self, number: int, lines: list[str]) -> None:
        if not lines:
            return
        path = self.folder.trial_log(trial_id(number))
        path.parent.mkdir(parents=True, exist_ok=True)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        with path.open("a") as file:
            file.writelines(f"{stamp} {line}\n" for line in lines)
