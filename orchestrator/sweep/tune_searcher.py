"""The thin layer between Ray Tune and the study."""

from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.search import Searcher

from orchestrator.search import Study
from orchestrator.storage.trial_records import Asked


class StudySearcher(Searcher):
    """Hands the study's trials to Tune.

    Keeps no state: the study is the only truth, and every start of a sweep builds a fresh Tuner and a fresh searcher. What comes out of
    a trial is told to the study by the sweep, not here: an exception in a searcher's callback would abort all trials.

    Args:
        study: Open for its driver.
        job_of: What else a trial's config carries, such as the job for its lane.
        is_ending: Whether no new trial may start.
    """

    def __init__(
        self,
        study: Study,
        job_of: Callable[[Asked], Mapping[str, Any]] = lambda asked: {},
        is_ending: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self._is_ending: Callable[[], bool] | None = is_ending
        self._study: Study | None = study
        self._job_of: Callable[[Asked], Mapping[str, Any]] | None = job_of

    def suggest(self, trial_id: str) -> Any:
        """The next trial as Tune's config.

        Args:
            trial_id: Tune's own name of the trial; ours is in the config.

        Returns:
            `trial_id`, `number`, `params` and what `job_of` adds; `FINISHED` when there are no more trials, or none may start.

        Raises:
            RuntimeError: Tune restored this searcher from a file.
        """
        if self._study is None or self._job_of is None or self._is_ending is None:
            raise RuntimeError("a searcher that Tune restored has no study: build a new one from the sweep's journal")
        asked = None if self._is_ending() else self._study.ask()
        if asked is None:
            return Searcher.FINISHED
        return {"trial_id": asked.trial_id, "number": asked.number, "params": dict(asked.params), **self._job_of(asked)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Does nothing: the sweep tells the study."""

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: there is no state to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing: there is no state to restore."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher beside the trials; an open journal with its locks does not belong there.
        return {**self.__dict__, "_study": None, "_job_of": None, "_is_ending": None}
