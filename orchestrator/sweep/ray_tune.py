"""Ray Tune's side of a sweep: a trainable that hands its job to a lane, a scheduler that decides at rungs, a
searcher over the study."""

from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from orchestrator.search.study import Study
from orchestrator.storage.trial_records import ProposedTrial, trial_id
from orchestrator.sweep.trial_recorder import TrialRecorder


class TuneTrial(tune.Trainable):
    """Holds no weights and no CPU. One step of it is whatever the lane said since the last one: Tune's
    scheduler reads it.

    A failed trial is an outcome, not an exception: an exception would throw this actor away and tell the log
    nothing new.
    """

    def setup(self, config: dict[str, Any], job_queue: Any = None) -> None:
        """Queue the trial's job."""
        self._job_queue = job_queue
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
            found = ray.get(self._job_queue.news.remote({self._job_name: self._seen}))
            if (news := found.get(self._job_name)) is None:
                continue
            self._seen += len(news.events)
            events = list(news.events)
            if news.outcome is not None:
                events.append({"event": "outcome"} | news.outcome)
            if events:
                return {"number": self._number, "events": events, "done": news.outcome is not None}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save: the study is the only truth, and weights are written by the lane."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to load."""

    def _take(self, config: dict[str, Any]) -> None:
        self._job_name, self._number, self._seen = config["trial_id"], config["number"], 0
        ray.get(self._job_queue.submit.remote(self._job_name, config["job"]))


class RungScheduler(FIFOScheduler):
    """Stops trials cooperatively: the lane of a stopped trial ends it at its rung by itself and takes the
    next one at once.

    Tune is never told to stop a trial: it would tear down what the trial holds, and the lane with it. An
    exception here ends the
    sweep: right for the study, which alone holds the truth, and for nothing else.

    Args:
        recorder: Told everything; gives the verdicts.
        mailbox: Actor through which lanes hear them.
    """

    def __init__(self, recorder: TrialRecorder, job_queue: Any) -> None:
        super().__init__()
        self._recorder = recorder
        self._job_queue = job_queue

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
        ray.get(self._job_queue.give_up.remote(trial_id(number), reason))
        self._recorder.take(number, {"event": "outcome", "status": "failed", "reason": reason})

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its scheduler beside the trials; nothing is ever restored from there.
        return {}

    def _take(self, result: dict[str, Any]) -> None:
        number = result["number"]
        for event in result["events"]:
            decision = self._recorder.take(number, event)
            if decision is not None:
                ray.get(self._job_queue.decide.remote(trial_id(number), event["rung"], decision))


class StudySearcher(Searcher):
    """Hands the study's trials to Tune.

    Keeps no state: the study is the only truth, and every start of a sweep builds a fresh Tuner and a fresh
    searcher. What comes out of a trial is told to the study by the sweep, not here: an exception in a
    searcher's callback would abort all trials.

    Args:
        study: Open for its driver.
        job_of: What else a trial's config carries, such as the job for its lane.
        is_ending: Whether no new trial may start.
    """

    def __init__(
        self,
        study: Study,
        job_of: Callable[[ProposedTrial], Mapping[str, Any]] = lambda asked: {},
        is_ending: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self._is_ending: Callable[[], bool] | None = is_ending
        self._study: Study | None = study
        self._job_of: Callable[[ProposedTrial], Mapping[str, Any]] | None = job_of

    def suggest(self, trial_id: str) -> Any:
        """The next trial as Tune's config.

        Args:
            trial_id: Tune's own name of the trial; ours is in the config.

        Returns:
            `trial_id`, `number`, `params` and what `job_of` adds; `FINISHED` when there are no more trials,
            or none may start.

        Raises:
            RuntimeError: Tune restored this searcher from a file.
        """
        if self._study is None or self._job_of is None or self._is_ending is None:
            raise RuntimeError(
                "a searcher that Tune restored has no study: build a new one from the sweep's journal"
            )
        asked = None if self._is_ending() else self._study.ask()
        if asked is None:
            return Searcher.FINISHED
        return {
            "trial_id": asked.trial_id,
            "number": asked.number,
            "params": dict(asked.params),
            **self._job_of(asked),
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Does nothing: the sweep tells the study."""

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: there is no state to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing: there is no state to restore."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher beside the trials; an open journal with its locks does not belong there.
        return {**self.__dict__, "_study": None, "_job_of": None, "_is_ending": None}
