"""What a trial that has ended tells the search: the rung that stands for it, or why it failed. Pure functions
of its rungs."""

import math
from collections.abc import Mapping, Sequence

from orchestrator.pareto.dominance import hypervolume
from orchestrator.pareto.objectives import Criteria, why_unusable

Rungs = Sequence[Mapping[str, float]]


def why_failed(rungs: Rungs, criteria: Criteria) -> str | None:
    """Why a trial that went to its last rung has failed.

    Args:
        rungs: Metrics of every rung, in order.
        criteria: The objectives must be there, and finite, at the last rung.

    Returns:
        A reason for people; None when all is well.
    """
    return not_a_number(rungs[:-1]) or why_unusable(rungs[-1] if rungs else {}, criteria.objectives)


def not_a_number(rungs: Rungs) -> str | None:
    """Which metric is NaN at which rung, for people; None when none is."""
    for rung, metrics in enumerate(rungs, 1):
        wrong = sorted(key for key, value in metrics.items() if math.isnan(value))
        if wrong:
            return f"not a number at rung {rung}: {', '.join(wrong)}"
    return None


def selected_rung(rungs: Rungs, criteria: Criteria) -> int | None:
    """The rung that stands for a trial: the best moment to stop unlearning is often not the last.

    Of the rungs that keep to all limits (of all, where none does) the one with the largest hypervolume of its
    own, between it and the
    reference point: the earliest of equals, but the last where all are beyond the reference point. Or simply
    the last rung, where the sweep says so.

    Args:
        rungs: Metrics of every rung, in order.
        criteria: What is better.

    Returns:
        Its number, from 1; None where no rung has all objectives.
    """
    points = {
        rung: point for rung, metrics in enumerate(rungs, 1) if (point := criteria.point(metrics)) is not None
    }
    if not points or not criteria.every_rung:
        return max(points, default=None)
    feasible = [rung for rung in points if criteria.feasible(rungs[rung - 1])] or list(points)
    volumes = {rung: hypervolume([points[rung]], criteria.reference) for rung in feasible}
    # The first of the largest, because `max` keeps the earliest of equals.
    return max(volumes, key=lambda rung: volumes[rung]) if any(volumes.values()) else feasible[-1]


def sampler_values(metrics: Mapping[str, float], criteria: Criteria) -> list[float]:
    """What the sampler is told: each objective clipped and on its own scale, because it weighs distances; in
    the metric's direction."""
    return [objective.scaled(metrics[f"validation/{objective.name}"]) for objective in criteria.objectives]


def violations(metrics: Mapping[str, float], criteria: Criteria) -> dict[str, float]:
    """All limits by name, and how far outside each the trial is: feasible up to 0."""
    return {limit.name: limit.violation(metrics) for limit in criteria.limits}
