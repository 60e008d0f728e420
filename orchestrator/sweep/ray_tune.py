"""Tune's side of a trial: a thin actor that hands the job to a lane and passes on what the lane says."""

from typing import Any

import ray
from ray import tune


class Lease(tune.Trainable):
    """Holds no weights and no CPU. One step of it is whatever the lane said since the last one: Tune's scheduler reads it.

    A failed trial is an outcome, not an exception: an exception would throw this actor away and tell the log nothing new.
    """

    def setup(self, config: dict[str, Any], mailbox: Any = None) -> None:
        """Queue the trial's job."""
        self._mailbox = mailbox
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Serve another trial with the same actor."""
        self._take(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Wait for something new.

        Returns:
            `number` of the trial, `events` in order, the outcome last, and Tune's own `done`.
        """
        while True:
            events, _, outcome = ray.get(self._mailbox.follow.remote(self._ticket, self._seen))
            self._seen += len(events)
            if outcome is not None:
                events = [*events, {"event": "outcome"} | outcome]
            if events:
                return {"number": self._number, "events": events, "done": outcome is not None}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save: the study is the only truth, and weights are written by the lane."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to load."""

    def _take(self, config: dict[str, Any]) -> None:
        self._ticket, self._number, self._seen = config["trial_id"], config["number"], 0
        ray.get(self._mailbox.submit.remote(self._ticket, config["job"]))
