"""The study that samplers look at: in memory, bounded to a window of the newest trials and the front."""

import bisect
from collections.abc import Container, Mapping, Sequence
from typing import Any, NoReturn

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from orchestrator.pareto.dominance import NonDominated


class SamplerMemory(BaseStorage):
    """One study whose trials can be taken out again.

    Ids count all trials that ever were, so that samplers that note ids (NSGA-II its parents) mean the same
    trials after a restart, whatever was forgotten in between. A trial's number is its id.

    Args:
        directions: Of the objectives.
    """

    def __init__(self, directions: Sequence[StudyDirection]) -> None:
        self.trials: dict[int, FrozenTrial] = {}
        """By id, in rising order."""
        self.state: dict[str, Any] = {}
        """What samplers keep with the study."""
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
        """Take a trial, or replace it. New ones have the next id or a later one."""
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
        """Take a trial out, if it is there; its id stays used."""
        self.trials.pop(trial_id, None)
        self.next_id = max(self.next_id, trial_id + 1)

    def forget_from(self, trial_id: int) -> None:
        """Take the trials with this id and later ones out, and give the ids out again."""
        for later in range(trial_id, self.next_id):
            del self.trials[later]
        self.next_id = trial_id

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """There is but one."""
        return 0

    def get_study_id_from_name(self, study_name: str) -> int:
        """There is but one."""
        return 0

    def get_study_name_from_id(self, study_id: int) -> str:
        """Nobody reads it."""
        return "sampler"

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Of the objectives."""
        return self._directions

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """What samplers keep with the study."""
        return self.state

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Keep something with the study."""
        self.state[key] = value

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """A running trial without parameters yet."""
        trial_id = self.next_id
        self.put(trial_id, TrialState.RUNNING, {}, {})
        return trial_id

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """What a sampler has settled on for one parameter of a running trial."""
        trial = self.trials[trial_id]
        params, distributions = trial.params, trial.distributions
        params[param_name] = distribution.to_external_repr(param_value_internal)
        distributions[param_name] = distribution
        trial.params, trial.distributions = params, distributions

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """What a sampler keeps with a trial."""
        self.trials[trial_id].system_attrs[key] = value

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """One trial, not a copy."""
        return self.trials[trial_id]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials that are remembered, in rising order, not copies."""
        # Asked for at every new trial, and nobody enqueues trials here.
        if states == (TrialState.WAITING,):
            return []
        return [trial for trial in self.trials.values() if states is None or trial.state in states]

    def delete_study(self, study_id: int) -> NoReturn:
        """Not needed by samplers, as all below."""
        raise NotImplementedError

    def get_all_studies(self) -> NoReturn:
        """Not needed."""
        raise NotImplementedError

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> NoReturn:
        """Not needed."""
        raise NotImplementedError

    def get_study_user_attrs(self, study_id: int) -> NoReturn:
        """Not needed."""
        raise NotImplementedError

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> NoReturn:
        """Not needed: see `put`."""
        raise NotImplementedError

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> NoReturn:
        """Not needed."""
        raise NotImplementedError

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> NoReturn:
        """Not needed."""
        raise NotImplementedError


class TrialWindow:
    """The newest trials with a result, and the front. What is relevant depends on the trials alone, not on
    the order of their ends.

    Args:
        newest: How many newest trials count; all when None.
        reference: (objectives,) of the hypervolume.
    """

    def __init__(self, newest: int | None, reference: Sequence[float]) -> None:
        self._most = newest
        self._newest: list[int] = []
        self._front: NonDominated[int] = NonDominated(reference)

    def add(self, trial: int, point: Sequence[float] | None) -> list[int]:
        """Take a trial that has ended with a result.

        Args:
            trial: A larger number is newer.
            point: Minimises in every coordinate; None for a trial that cannot be on the front.

        Returns:
            Trials that have become irrelevant for good, this one perhaps among them.
        """
        if self._most is None:
            return []
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
