"""Ray Tune's side of a sweep: a trainable that queues its job, a scheduler for rungs, and a searcher."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from orchestrator.search.study import Study
from orchestrator.storage.trial_records import ProposedTrial, trial_id
from orchestrator.sweep.trial_recorder import TrialRecorder
from trainables.events import EVENT, OUTCOME, Failed, RungReached


class TuneTrial(tune.Trainable):
    """A trial of Tune, which waits for the job that a lane runs. It holds no weights and no CPU.

    Each result that it reports to Tune carries the job's new events, which the scheduler records. A failed
    trial is an outcome and no exception: an exception would only end this actor, which the next trial reuses.
    """

    def setup(self, config: dict[str, Any], job_queue: Any = None) -> None:
        """Queue the trial's job."""
        self._job_queue = job_queue
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Wait for another trial's job with the same actor."""
        self._take(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Wait for news of the job.

        Returns:
            `number` of the trial; `events` in order and `outcomes`, one or none, as plain dictionaries, since
            Tune writes its results as JSON; and Tune's own `done`.
        """
        while True:
            found = ray.get(self._job_queue.news.remote({self._job_name: self._seen}))
            if (news := found.get(self._job_name)) is None:
                continue
            self._seen += len(news.events)
            if news.events or news.outcome is not None:
                return {
                    "number": self._number,
                    "events": [asdict(event) for event in news.events],
                    # A list, since Tune flattens the dictionaries of a result, but not those in its lists.
                    "outcomes": [] if news.outcome is None else [asdict(news.outcome)],
                    "done": news.outcome is not None,
                }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing: the study holds all results, and the lane writes the weights."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Load nothing."""

    def _take(self, config: dict[str, Any]) -> None:
        self._job_name, self._number, self._seen = config["trial_id"], config["number"], 0
        ray.get(self._job_queue.submit.remote(self._job_name, config["job"]))


class RungScheduler(FIFOScheduler):
    """Records the events of all trials and sends the decisions about rungs to the lanes.

    The lane of a stopped trial ends it at its rung, and takes the next job at once. Tune itself stops no
    trial, because it would end the actor of the trial too. An exception here ends the sweep, which is right
    for an exception of the study alone: the study holds all results.

    Args:
        recorder: Records events and outcomes, and decides about rungs.
        job_queue: Actor that passes the decisions on to the lanes.
    """

    def __init__(self, recorder: TrialRecorder, job_queue: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recorder = recorder
        self._job_queue = job_queue

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Note that a trial starts."""
        self._recorder.started(trial.config["number"])

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Record the events of a trial that goes on."""
        self._take(result)
        return TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Record the last events of a trial, and its outcome."""
        self._take(result)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Fail a trial whose actor died: the trial itself did nothing wrong, but its events are lost."""
        number, reason = trial.config["number"], "the Tune actor that waited for this trial died"
        # Otherwise its lane would wait for a decision that never comes.
        ray.get(self._job_queue.give_up.remote(trial_id(number), reason))
        self._recorder.end(number, Failed(reason))

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its scheduler beside the trials, but a sweep never restores it from there.
        return {}

    def _take(self, result: dict[str, Any]) -> None:
        number = result["number"]
        for plain in result["events"]:
            event = EVENT.validate_python(plain)
            decision = self._recorder.take(number, event)
            if decision is not None and isinstance(event, RungReached):
                ray.get(self._job_queue.decide.remote(trial_id(number), event.rung, decision))
        for plain in result["outcomes"]:
            self._recorder.end(number, OUTCOME.validate_python(plain))


class StudySearcher(Searcher):
    """Gives the study's trials to Tune, and keeps no state of its own.

    Every start of a sweep builds a new Tuner and a new searcher over the study. Results reach the study
    through the recorder and not through this class, because an exception in a searcher's callback would end
    all trials.

    Args:
        study: Study that is open for its driver.
        job_of: Returns further entries of a trial's config, such as the job for its lane.
        is_ending: Returns whether no new trial may start.
    """

    def __init__(
        self,
        study: Study,
        job_of: Callable[[ProposedTrial], Mapping[str, Any]] = lambda proposed: {},
        is_ending: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self._is_ending: Callable[[], bool] | None = is_ending
        self._study: Study | None = study
        self._job_of: Callable[[ProposedTrial], Mapping[str, Any]] | None = job_of

    def suggest(self, trial_id: str) -> Any:
        """Propose the next trial as Tune's config.

        Args:
            trial_id: Tune's own name of the trial; the sweep's is in the config.

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
        proposed = None if self._is_ending() else self._study.ask()
        if proposed is None:
            return Searcher.FINISHED
        return {
            "trial_id": proposed.trial_id,
            "number": proposed.number,
            "params": dict(proposed.params),
            **self._job_of(proposed),
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Do nothing: the recorder writes to the study."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: there is no state to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: there is no state to restore."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher beside the trials, where an open journal with its locks cannot go.
        return {**self.__dict__, "_study": None, "_job_of": None, "_is_ending": None}
