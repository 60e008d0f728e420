"""Proposes the next trial: first the recipes and enqueued entries of the sweep file, then the sampler's."""

import functools
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from orchestrator.pareto.objectives import Criteria
from orchestrator.search.sampler_memory import SamplerMemory, TrialWindow
from orchestrator.search.samplers import distributions_of, sampler_of, seed_of
from orchestrator.search.selected_rung import Rungs, sampler_values, selected_rung, violations
from orchestrator.search.trial_attributes import rungs_of
from orchestrator.storage.trial_records import TrialRecord
from search_spaces.catalogue.recipes import searched_part
from search_spaces.settings.space import Domain, sample
from search_spaces.settings.sweep_settings import SearchSettings, SweepSettings

# TPE repeats points of small discrete spaces: 31 of 40 asks on a space of 9 points. 20 asks find a new point
# in any space that has many left.
_ASKS = 20
# Then plain random draws, which take about a second: the chance to miss the last point of 128 is 4e-4. If
# they find nothing new, the space counts as exhausted.
_RANDOM_DRAWS = 1000
# The system attributes that samplers set on the study are stored in the record of the trial that changed
# them: a kill cannot separate the two.
_SAMPLER_STATE = "sampler_state"
# Attribute in which TPE and GP repeat the parameters of a running trial, along with keys that it does not
# use.
_REPEATED_PARAMS = ":relative_params:"


class Proposer:
    """Proposes trials whose parameters differ from those of all other trials.

    A proposal depends only on the seed, the number of the new trial and the trials before it. A proposer that
    was just filled from a journal therefore proposes the same as one that was never interrupted. It follows
    the study trial by trial and processes no trial twice.

    Args:
        sweep: Settings with objectives filled in.
        criteria: Objectives and limits of the sweep.
        warm: Trials of other sweeps at points of this space, which the sampler learns from. They never become
            trials of this sweep.
    """

    def __init__(self, sweep: SweepSettings, criteria: Criteria, warm: Sequence[TrialRecord] = ()) -> None:
        self.exhausted = False
        """Whether every point of the space has been tried."""
        self.ask_s = 0.0
        """Time spent in the sampler so far, in seconds."""
        self._sweep, self._criteria = sweep, criteria
        directions = [objective.direction for objective in criteria.objectives]
        self._distributions = distributions_of(sweep.space)
        # The storage that the sampler reads, separate from the journal: bounded, and with the selected rungs.
        self.memory = SamplerMemory(
            [optuna.study.StudyDirection[direction.upper()] for direction in directions]
        )
        # `_new` sets the sampler before each ask.
        self._study = optuna.create_study(
            storage=self.memory, directions=directions, sampler=RandomSampler(seed=0)
        )
        self._window = TrialWindow(sweep.search.newest_trials, criteria.reference)
        self._entries = _entries(sweep)
        self._kept_state: dict[str, Any] = {}
        self._taken: set[str] = set()
        self._warm = {_identity(record.params) for record in warm}
        # The warm trials take the first ids of the memory; trial 0 of this sweep follows them.
        self._first = len(warm)
        for trial_id, record in enumerate(warm):
            rung = selected_rung(record.rungs, criteria)
            assert rung is not None, f"{record.trial_id} has no result to learn from"
            limits = constraint_attrs(violations(record.rungs[rung - 1], criteria))
            self._learn(trial_id, record.rungs, record.status == "finished", record.params, limits)

    def take(self, trial: FrozenTrial) -> None:
        """Takes in a trial of the study: once when it starts, and again when it ends."""
        trial_id = self._first + trial.number
        self._taken.add(_identity(trial.params))
        # An entry of the sweep file that has become a trial is not proposed again after a restart.
        for note in trial.user_attrs.items():
            if note[0] in ("recipe", "enqueued"):
                self._entries.pop(note, None)
        self._keep(trial.system_attrs.get(_SAMPLER_STATE, {}))
        if trial.state == TrialState.FAIL:
            self.memory.forget(trial_id)
            return
        if trial.state == TrialState.PRUNED:
            self._learn(trial_id, rungs_of(trial), False, trial.params, trial.system_attrs)
        else:
            self._remember(trial_id, trial.state, trial.params, trial.values, trial.system_attrs)

    def propose(self, number: int) -> FrozenTrial | None:
        """Proposes the trial with this number, ready to be added to the study; None when none is left."""
        begun = time.perf_counter()
        try:
            return self._propose(number)
        finally:
            self.ask_s += time.perf_counter() - begun

    def _propose(self, number: int) -> FrozenTrial | None:
        if self.exhausted:
            return None
        while self._entries:
            note = next(iter(self._entries))
            # An entry whose parameters equal those of an earlier trial is skipped.
            if (proposal := self._new(number, self._entries.pop(note), dict([note]))) is not None:
                return proposal
        proposal = self._new(number, {}, {})
        self.exhausted = proposal is None
        return proposal

    def _new(self, number: int, fixed: Mapping[str, Any], notes: Mapping[str, Any]) -> FrozenTrial | None:
        """Samples a trial with some values fixed whose parameters are new; None when none is found."""
        # An entry of the sweep file is run even if a warm trial has its parameters; a sampled point is not.
        refused = (self._taken,) if fixed else (self._taken, self._warm)
        trial_id = self.memory.next_id
        try:
            for attempt in range(_ASKS + _RANDOM_DRAWS):
                seed = seed_of(self._sweep.search, number, attempt)
                self._study.sampler = (
                    sampler_of(self._sweep, seed) if attempt < _ASKS else RandomSampler(seed=seed)
                )
                # Refused trials stay in the state RUNNING until the end, so that the sampler avoids their
                # points (TPE's constant liar).
                trial = self._study.ask()
                params = sample(
                    self._sweep.space, self._sweep.trial, functools.partial(self._suggest, trial, fixed)
                )
                identity = _identity(params)
                if not any(identity in known for known in refused):
                    return self._running(
                        params, notes, self.memory.trials[self.memory.next_id - 1].system_attrs
                    )
                # With every value fixed, further asks would give the same point.
                if params.keys() <= fixed.keys():
                    return None
            return None
        finally:
            self.memory.forget_from(trial_id)

    def _suggest(self, trial: optuna.Trial, fixed: Mapping[str, Any], key: str, domain: Domain) -> Any:
        if key in fixed:
            return domain.as_drawn(fixed[key])
        # A private method of Optuna, but the only one that serves every kind of domain alike. Tests cover
        # what each kind returns.
        return trial._suggest(key, self._distributions[key])

    def _running(
        self, params: Mapping[str, Any], notes: Mapping[str, Any], attrs: Mapping[str, Any]
    ) -> FrozenTrial:
        # The record of the trial holds its parameters already, so their repetition is left out.
        kept = {key: value for key, value in attrs.items() if _REPEATED_PARAMS not in key}
        changed = {
            key: value for key, value in self.memory.state.items() if self._kept_state.get(key) != value
        }
        return create_trial(
            state=TrialState.RUNNING,
            params=dict(params),
            distributions={key: self._distributions[key] for key in params},
            user_attrs=dict(notes),
            system_attrs={**kept, **({_SAMPLER_STATE: changed} if changed else {})},
        )

    def _keep(self, state: Mapping[str, Any]) -> None:
        self._kept_state.update(state)
        self.memory.state.update(state)

    def _learn(
        self, trial_id: int, rungs: Rungs, finished: bool, params: Mapping[str, Any], attrs: Mapping[str, Any]
    ) -> None:
        """Enters the result of a trial into the memory, from its rungs.

        If every rung counts, a stopped trial has a result like any other trial: its best rung so far. In the
        state PRUNED it would teach the sampler little, since Optuna supports no values of pruned trials with
        several objectives: TPE counts all of them as bad, and GP and NSGA-II ignore them.
        """
        rung = selected_rung(rungs, self._criteria)
        counts = rung is not None and (finished or self._criteria.every_rung)
        values = sampler_values(rungs[rung - 1], self._criteria) if counts and rung is not None else None
        self._remember(trial_id, TrialState.COMPLETE if counts else TrialState.PRUNED, params, values, attrs)

    def _remember(
        self,
        trial_id: int,
        state: TrialState,
        params: Mapping[str, Any],
        values: Sequence[float] | None,
        attrs: Mapping[str, Any],
    ) -> None:
        attrs = {key: value for key, value in attrs.items() if key != _SAMPLER_STATE}
        self.memory.put(
            trial_id, state, params, {key: self._distributions[key] for key in params}, values, attrs
        )
        if state == TrialState.RUNNING:
            return
        # The window's front compares the values that the sampler sees, on the sampler's scale.
        feasible = values is not None and all(
            violation <= 0 for violation in self.memory.get_trial(trial_id).constraints.values()
        )
        signs = [1 if objective.direction == "minimize" else -1 for objective in self._criteria.objectives]
        point = (
            [sign * value for sign, value in zip(signs, values, strict=True)]
            if feasible and values is not None
            else None
        )
        for irrelevant in self._window.add(trial_id, point):
            self.memory.forget(irrelevant)


def constraint_attrs(violations: Mapping[str, float]) -> dict[str, float]:
    """Converts constraint violations to the system attributes that `FrozenTrial.constraints` reads."""
    return {f"constraints:{name}": value for name, value in violations.items()}


def _entries(sweep: SweepSettings) -> dict[tuple[str, Any], Mapping[str, Any]]:
    """Lists the trials that the sweep file names, in order: user attribute -> fixed parameters."""
    settings: SearchSettings = sweep.search
    recipes = {("recipe", name): searched_part(name, sweep.space) for name in settings.recipes}
    return {**recipes, **{("enqueued", index): entry for index, entry in enumerate(settings.enqueue)}}


def _identity(params: Mapping[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)
