"""`lethe compare`: several sweeps under one reference point, each with how sure its hypervolume is."""

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
    """One sweep in a comparison. Hypervolumes and objective values are of the test part."""

    name: str
    ended: int
    """Trials that have ended, in whatever way."""
    failed: int
    stopped: int
    worker_hours: float
    """Hours times workers of all attempts, failed and repeated ones too; confirmations are not counted."""
    front: Front
    interval: Interval | None
    """None with fewer than two trials."""
    confirmed: Estimate | None
    """Hypervolume of the front over new seeds; None unless every member was confirmed."""
    best: Mapping[str, float]
    """Objective name -> best value on the front; empty without a front."""
    curve: Curve
    hypervolume_at_equal_time: float
    """After as many worker-seconds as the shortest of the sweeps has taken in all."""
    baselines: Mapping[str, Mapping[str, float] | None]
    """Objectives of the `original` and the `retrained` model, where measured."""


@dataclass(frozen=True)
class Comparison:
    """Sweeps under the first one's objectives and reference point."""

    objectives: tuple[Objective, ...]
    equal_worker_hours: float
    """What the shortest of the sweeps has taken."""
    sweeps: tuple[ComparedSweep, ...]
    warnings: tuple[str, ...]
    """What makes the comparison less than fair."""


def compare(views: Sequence[SweepView], digests: Sequence[str | None]) -> Comparison:
    """Measure all sweeps with the first one's objectives: its reference point, transforms and clips.

    Args:
        views: Two or more.
        digests: `data_digest` of each.

    Raises:
        UserError: There is only one, or their objectives have other names or directions.
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
    # Each keeps its own limits and its own choice of rungs: those belong to how it searched.
    criteria = [replace(criteria_of(view.sweep), objectives=objectives) for view in views]
    curves = [
        hypervolume_curve(view.records, own, view.sweep.resources.workers_per_trial)
        for view, own in zip(views, criteria, strict=True)
    ]
    shortest_s = min(curve[-1][0] if curve else 0.0 for curve in curves)
    compared = [
        _compared(view, own, curve, shortest_s)
        for view, own, curve in zip(views, criteria, curves, strict=True)
    ]
    return Comparison(objectives, shortest_s / 3600, tuple(compared), tuple(_warnings(views, digests)))


def _compared(view: SweepView, criteria: Criteria, curve: Curve, shortest_s: float) -> ComparedSweep:
    # The view's own front holds only under the sweep's own objectives.
    front = view.front if criteria == view.criteria else build_front(view.records, criteria)
    found = confirmed_front(front, criteria, view.confirmations)
    confirmed = found.hypervolume if found is not None and found.is_whole else None
    if confirmed is not None and confirmed.half_width is not None:
        interval: Interval | None = Interval(
            confirmed.mean - confirmed.half_width, confirmed.mean + confirmed.half_width, "seeds"
        )
    else:
        interval = bootstrap_interval(view.records, criteria)
    best = {
        objective.name: min(
            (member.objectives[objective.name] for member in front.members), key=objective.to_minimised
        )
        for objective in criteria.objectives
        if front.members
    }
    return ComparedSweep(
        name=view.sweep.name,
        ended=sum(record.ended for record in view.records),
        failed=sum(record.status == "failed" for record in view.records),
        stopped=sum(record.status == "stopped" for record in view.records),
        worker_hours=sum(record.spent_s for record in view.records)
        * view.sweep.resources.workers_per_trial
        / 3600,
        front=front,
        interval=interval,
        confirmed=confirmed,
        best=best,
        curve=curve,
        hypervolume_at_equal_time=hypervolume_at(curve, shortest_s),
        baselines={
            name: objective_values(view.baselines.get(name, {}), criteria.objectives, "test")
            for name in BASELINES
        },
    )


def _require_same_objectives(first: SweepSettings, other: SweepSettings) -> None:
    one = {objective.name: objective.direction for objective in objectives_of(first)}
    two = {objective.name: objective.direction for objective in objectives_of(other)}
    if one != two:
        lines = [
            f"  {name}: {one.get(name, 'none')} -> {two.get(name, 'none')}"
            for name in one | two
            if one.get(name) != two.get(name)
        ]
        differences = "\n".join(lines)
        raise UserError(
            f"{first.name} and {other.name} have other objectives and cannot be compared:\n{differences}",
            key="SWEEP",
            value=other.name,
            remedy="compare sweeps whose objectives have the same names and directions",
        )


def _warnings(views: Sequence[SweepView], digests: Sequence[str | None]) -> list[str]:
    first, found = views[0].sweep, []
    limits = criteria_of(first).limits
    for view, digest in zip(views, digests, strict=True):
        name = view.sweep.name
        if digest is None:
            found.append(
                f"the data of {name} cannot be read any more: whether they are the first sweep's is not known"
            )
        elif digests[0] is not None and digest != digests[0]:
            found.append(f"{name} has other data than {first.name}: their values are of other items")
        if set(objectives_of(view.sweep)) != set(objectives_of(first)):
            found.append(
                f"{name} was searched with another reference point, transform or clip; those of {first.name}"
                " count here"
            )
        if set(criteria_of(view.sweep).limits) != set(limits):
            found.append(f"{name} keeps its own limits, which differ from those of {first.name}")
    return found
