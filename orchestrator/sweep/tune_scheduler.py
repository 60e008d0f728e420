"""The seam to Tune's scheduling: passes what lanes say to the recorder, and its verdicts on rungs back to the lanes."""

from typing import Any

import ray
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from orchestrator.storage.trial_records import trial_id
from orchestrator.sweep.trial_recorder import Recorder


class RungScheduler(FIFOScheduler):
    """Stops trials cooperatively: the lane of a stopped trial ends it at its rung by itself and takes the next one at once.

    Tune is never told to stop a trial: it would tear down what the trial holds, and the lane with it. An exception here ends the
    sweep: right for the study, which alone holds the truth, and for nothing else.

    Args:
        recorder: Told everything; gives the verdicts.
        mailbox: Actor through which lanes hear them.
    """

    def __init__(self, recorder: Recorder, mailbox: Any) -> None:
        super().__init__()
        self._recorder = recorder
        self._mailbox = mailbox

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial is about to be handed to a lane."""
        self._recorder.started(trial.config["number"])

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Take what a lane said about a trial that goes on."""
        self._take(result)
        return TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Take the last that a lane said about a trial."""
        self._take(result)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """A lease died: the trial itself did nothing wrong, but nobody waits for it any more."""
        number, reason = trial.config["number"], "the Tune actor that waited for this trial died"
        # Its lane must not wait for a verdict that nobody will give.
        ray.get(self._mailbox.give_up.remote(trial_id(number), reason))
        self._recorder.take(number, {"event": "outcome", "status": "failed", "reason": reason})

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its scheduler beside the trials; nothing is ever restored from there.
        return {}

    def _take(self, result: dict[str, Any]) -> None:
        number = result["number"]
        for event in result["events"]:
            verdict = self._recorder.take(number, event)
            if verdict is not None:
                ray.get(self._mailbox.judge.remote(trial_id(number), event["rung"], verdict))
