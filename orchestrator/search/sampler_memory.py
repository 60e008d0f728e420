"""The in-memory Optuna storage that samplers read: bounded to the newest trials and the front."""

import bisect
from collections.abc import Container, Mapping, Sequence
from typing import Any, NoReturn

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from orchestrator.pareto.dominance import NonDominated


class SamplerMemory(BaseStorage):
    """An Optuna storage of one study whose trials can be removed again.

    Ids are never reused for other trials, even after a trial is forgotten. Samplers that store ids (NSGA-II
    stores parents) therefore refer to the same trials after a restart. A trial's number equals its id.

    Args:
        directions: Directions of the objectives.
    """

    def __init__(self, directions: Sequence[StudyDirection]) -> None:
        self.trials: dict[int, FrozenTrial] = {}
        """Id -> trial, in ascending order of ids."""
        self.state: dict[str, Any] = {}
        """System attributes of the study, in which samplers keep their state."""
        self.next_id = 0
        self._directions = list(directions)

    def put(
        self,
        trial_id: int,
        state: TrialState,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        values: Sequence[float] | None = None,
        system_attrs: Mapping[str, Any] | None = None,
    ) -> None:
        """Adds a trial or replaces it. A new trial has the next id or a later one."""
        self.trials[trial_id] = FrozenTrial(
            number=trial_id,
            trial_id=trial_id,
            state=state,
            value=None,
            values=values,
            datetime_start=None,
            datetime_complete=None,
            params=dict(params),
            distributions=dict(distributions),
            user_attrs={},
            system_attrs=dict(system_attrs or {}),
            intermediate_values={},
        )
        self.next_id = max(self.next_id, trial_id + 1)

    def forget(self, trial_id: int) -> None:
        """Removes a trial if it exists; its id stays used."""
        self.trials.pop(trial_id, None)
        self.next_id = max(self.next_id, trial_id + 1)

    def forget_from(self, trial_id: int) -> None:
        """Removes the trials with this id and later ids, whose ids are then used again."""
        for later in range(trial_id, self.next_id):
            del self.trials[later]
        self.next_id = trial_id

    # The methods of `BaseStorage` that samplers call. They ignore study ids: this storage holds one study.

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Returns the id of the only study."""
        return 0

    def get_study_id_from_name(self, study_name: str) -> int:
        """Returns the id of the only study."""
        return 0

    def get_study_name_from_id(self, study_id: int) -> str:
        """Returns a placeholder: Optuna requires a name, but no code reads it."""
        return "sampler"

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Returns the directions of the objectives."""
        return self._directions

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Returns the system attributes of the study, in which samplers keep their state."""
        return self.state

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Sets a system attribute of the study."""
        self.state[key] = value

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Creates a running trial without parameters and returns its id."""
        trial_id = self.next_id
        self.put(trial_id, TrialState.RUNNING, {}, {})
        return trial_id

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Sets one parameter of a running trial, as drawn by a sampler."""
        trial = self.trials[trial_id]
        params, distributions = trial.params, trial.distributions
        params[param_name] = distribution.to_external_repr(param_value_internal)
        distributions[param_name] = distribution
        trial.params, trial.distributions = params, distributions

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Sets a system attribute of a trial."""
        self.trials[trial_id].system_attrs[key] = value

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Returns one trial; not a copy."""
        return self.trials[trial_id]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Returns the trials that are held, in ascending order of ids; not copies.

        Samplers do not change trials, and a deep copy of every trial at every ask would dominate the driver's
        time.
        """
        # `Study.ask` looks for enqueued trials each time, and this storage never has any.
        if states == (TrialState.WAITING,):
            return []
        return [trial for trial in self.trials.values() if states is None or trial.state in states]

    def delete_study(self, study_id: int) -> NoReturn:
        """Refused: samplers do not use it, like all methods below."""
        _refuse()

    def get_all_studies(self) -> NoReturn:
        """Refused."""
        _refuse()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> NoReturn:
        """Refused."""
        _refuse()

    def get_study_user_attrs(self, study_id: int) -> NoReturn:
        """Refused."""
        _refuse()

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> NoReturn:
        """Refused: trials end by `put`."""
        _refuse()

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> NoReturn:
        """Refused."""
        _refuse()

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> NoReturn:
        """Refused."""
        _refuse()


class TrialWindow:
    """The trials that the sampler learns from: the newest ones with a result, and the front.

    Which trials are in the window depends on the trials alone, not on the order in which they ended.

    Args:
        newest: Number of newest trials in the window; None keeps all trials.
        reference: (objectives,) The reference point of the hypervolume.
    """

    def __init__(self, newest: int | None, reference: Sequence[float]) -> None:
        self._most = newest
        self._newest: list[int] = []
        self._front: NonDominated[int] = NonDominated(reference)

    def add(self, trial: int, point: Sequence[float] | None) -> list[int]:
        """Adds a trial that has ended with a result.

        Args:
            trial: Number of the trial; a larger number is newer.
            point: (objectives,) Minimised values; None for a trial that cannot be on the front.

        Returns:
            Trials that have left the window for good; the new one may be among them.
        """
        if self._most is None:
            return []
        # Only trials that lose their place on the front or among the newest can leave the window.
        doubtful = set()
        if point is not None:
            before = set(self._front.items)
            self._front.add(point, trial)
            doubtful = before.difference(self._front.items)
        bisect.insort(self._newest, trial)
        if len(self._newest) > self._most:
            doubtful.add(self._newest.pop(0))
        stay = {*self._front.items, *self._newest} if doubtful else set()
        return sorted(doubtful - stay)


def _refuse() -> NoReturn:
    # house_check: no stub: Optuna's interface has more than samplers use, and silence would hide a new use.
    raise NotImplementedError("samplers of Optuna 5.0 do not call this")  # house_check: see above
