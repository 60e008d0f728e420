"""`lethe compare`: compares sweeps under one reference point, with confidence intervals of hypervolumes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.pareto.front import Front, build_front
from orchestrator.pareto.hypervolume_statistics import (
    Curve,
    Interval,
    bootstrap_interval,
    hypervolume_at,
    hypervolume_curve,
)
from orchestrator.pareto.objectives import Criteria, Objective, criteria_of, objective_values, objectives_of
from orchestrator.pareto.seed_statistics import Estimate, confirmed_front
from orchestrator.pareto.sweep_view import SweepView
from orchestrator.storage.trial_records import BASELINES
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError


@dataclass(frozen=True)
class ComparedSweep:
    """One sweep of a comparison. Hypervolumes and objective values are those of the test part."""

    name: str
    ended: int
    """Number of trials that have ended, in whatever way."""
    failed: int
    """Number of trials that failed."""
    stopped: int
    """Number of trials that were stopped at a rung."""
    worker_hours: float
    """Hours times workers of all attempts, including failed and repeated ones but not confirmations."""
    front: Front
    """The front under the first sweep's objectives."""
    interval: Interval | None
    """95 % interval of the hypervolume; None with fewer than two trials."""
    confirmed: Estimate | None
    """Hypervolume of the front over new seeds; None unless every member was confirmed."""
    best: Mapping[str, float]
    """Objective name -> best value on the front; empty without a front."""
    curve: Curve
    """Worker-seconds spent and hypervolume reached after each trial."""
    hypervolume_at_equal_time: float
    """Hypervolume after the worker-seconds that the shortest of the sweeps took."""
    baselines: Mapping[str, Mapping[str, float] | None]
    """Baseline name -> objective name -> value; None for a baseline without a measurement."""


@dataclass(frozen=True)
class Comparison:
    """Sweeps, compared under the objectives and the reference point of the first."""

    objectives: tuple[Objective, ...]
    equal_worker_hours: float
    """Worker-hours of the shortest sweep."""
    sweeps: tuple[ComparedSweep, ...]
    warnings: tuple[str, ...]
    """Sentences on what makes the comparison less than fair."""


def compare(views: Sequence[SweepView], digests: Sequence[str | None]) -> Comparison:
    """Compares sweeps under the first one's objectives: its reference point, transforms and clips.

    Args:
        views: Two sweeps or more.
        digests: The `data_digest` of each sweep.

    Raises:
        UserError: There are fewer than two sweeps, or their objectives differ in name or direction.
    """
    if len(views) < 2:
        raise UserError(
            "a comparison needs two sweeps",
            key="SWEEP",
            remedy="name at least two: `lethe compare ONE OTHER`",
        )
    objectives = objectives_of(views[0].sweep)
    for view in views[1:]:
        _require_same_objectives(views[0].sweep, view.sweep)
    # Each sweep keeps its own limits and its own choice of rungs, which belong to its search.
    criteria = [replace(criteria_of(view.sweep), objectives=objectives) for view in views]
    curves = [
        hypervolume_curve(view.records, own, view.sweep.resources.workers_per_trial)
        for view, own in zip(views, criteria, strict=True)
    ]
    # Sweeps of different lengths are compared at the work that all of them have done.
    shortest_s = min(curve[-1][0] if curve else 0.0 for curve in curves)
    compared = [
        _compared(view, own, curve, shortest_s)
        for view, own, curve in zip(views, criteria, curves, strict=True)
    ]
    return Comparison(objectives, shortest_s / 3600, tuple(compared), tuple(_warnings(views, digests)))


def _compared(view: SweepView, criteria: Criteria, curve: Curve, shortest_s: float) -> ComparedSweep:
    # The view's own front holds only under the sweep's own objectives.
    front = view.front if criteria == view.criteria else build_front(view.records, criteria)
    confirmed = _confirmed_hypervolume(view, front, criteria)
    worker_s = sum(record.spent_s for record in view.records) * view.sweep.resources.workers_per_trial
    return ComparedSweep(
        name=view.sweep.name,
        ended=sum(record.ended for record in view.records),
        failed=sum(record.status == "failed" for record in view.records),
        stopped=sum(record.status == "stopped" for record in view.records),
        worker_hours=worker_s / 3600,
        front=front,
        interval=_interval(confirmed, view, criteria),
        confirmed=confirmed,
        best=_best_values(front),
        curve=curve,
        hypervolume_at_equal_time=hypervolume_at(curve, shortest_s),
        baselines={
            name: objective_values(view.baselines.get(name, {}), criteria.objectives, "test")
            for name in BASELINES
        },
    )


def _confirmed_hypervolume(view: SweepView, front: Front, criteria: Criteria) -> Estimate | None:
    found = confirmed_front(front, criteria, view.confirmations)
    # The mean over some members would be the hypervolume of another front.
    return found.hypervolume if found is not None and found.is_whole else None


def _interval(confirmed: Estimate | None, view: SweepView, criteria: Criteria) -> Interval | None:
    """Returns the interval over seeds, or over trials if fewer than two seeds repeat the whole front."""
    if confirmed is None or confirmed.half_width is None:
        return bootstrap_interval(view.records, criteria)
    return Interval(confirmed.mean - confirmed.half_width, confirmed.mean + confirmed.half_width, "seeds")


def _best_values(front: Front) -> dict[str, float]:
    best = {}
    for objective in front.objectives:
        values = [member.objectives[objective.name] for member in front.members]
        if values:
            best[objective.name] = min(values, key=objective.to_minimised)
    return best


def _require_same_objectives(first: SweepSettings, other: SweepSettings) -> None:
    one = {objective.name: objective.direction for objective in objectives_of(first)}
    two = {objective.name: objective.direction for objective in objectives_of(other)}
    different = [name for name in one | two if one.get(name) != two.get(name)]
    if different:
        lines = [f"  {name}: {one.get(name, 'none')} -> {two.get(name, 'none')}" for name in different]
        differences = "\n".join(lines)
        raise UserError(
            f"{first.name} and {other.name} have different objectives and cannot be compared:\n{differences}",
            key="SWEEP",
            value=other.name,
            remedy="compare sweeps whose objectives have the same names and directions",
        )


def _warnings(views: Sequence[SweepView], digests: Sequence[str | None]) -> list[str]:
    first, warnings = views[0].sweep, []
    limits = criteria_of(first).limits
    for view, digest in zip(views, digests, strict=True):
        name = view.sweep.name
        if digest is None:
            warnings.append(
                f"the data of {name} cannot be read any more, so it is not known whether {first.name} has"
                " the same data"
            )
        elif digests[0] is not None and digest != digests[0]:
            warnings.append(
                f"{name} has other data than {first.name}: their values were measured on different items"
            )
        # Sets, because the order of the objectives does not matter.
        if set(objectives_of(view.sweep)) != set(objectives_of(first)):
            warnings.append(
                f"{name} was searched with another reference point, transform or clip; here those of"
                f" {first.name} are used"
            )
        if set(criteria_of(view.sweep).limits) != set(limits):
            warnings.append(f"{name} keeps its own limits, which differ from those of {first.name}")
    return warnings
