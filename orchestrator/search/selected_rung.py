"""The result of an ended trial: its selected rung and values, or why it failed."""

import math
from collections.abc import Mapping, Sequence

from orchestrator.pareto.dominance import hypervolume
from orchestrator.pareto.objectives import Criteria, why_unusable

Rungs = Sequence[Mapping[str, float]]


def why_failed(rungs: Rungs, criteria: Criteria) -> str | None:
    """Explains why a trial that reached its last rung has failed.

    Args:
        rungs: Metrics of every rung, in order.
        criteria: Criteria whose objectives must be present and finite at the last rung.

    Returns:
        The reason, as a text for the user; None when the trial has a result.
    """
    return not_a_number(rungs[:-1]) or why_unusable(rungs[-1] if rungs else {}, criteria.objectives)


def not_a_number(rungs: Rungs) -> str | None:
    """Returns which metrics are NaN at the first such rung, as a text for the user; None when none is."""
    for rung, metrics in enumerate(rungs, 1):
        wrong = sorted(key for key, value in metrics.items() if math.isnan(value))
        if wrong:
            return f"not a number at rung {rung}: {', '.join(wrong)}"
    return None


def selected_rung(rungs: Rungs, criteria: Criteria) -> int | None:
    """Selects the rung that represents a trial in the search.

    The best moment to stop unlearning is often not the last, so the rung with the largest hypervolume of its
    own is selected: the volume between its point and the reference point. Only rungs that satisfy all limits
    are considered, or all rungs if none does. Of equal volumes the earliest rung wins; if all rungs lie
    beyond the reference point, the last one is selected. With `search.select: last` it is always the last.

    Args:
        rungs: Metrics of every rung, in order.
        criteria: Objectives and limits of the sweep.

    Returns:
        The rung, counted from 1; None when no rung has all objectives.
    """
    points = {
        rung: point for rung, metrics in enumerate(rungs, 1) if (point := criteria.point(metrics)) is not None
    }
    if not points or not criteria.every_rung:
        return max(points, default=None)
    feasible = [rung for rung in points if criteria.feasible(rungs[rung - 1])] or list(points)
    volumes = {rung: hypervolume([points[rung]], criteria.reference) for rung in feasible}
    # `max` returns the first of equal volumes, and the rungs are in order.
    return max(volumes, key=lambda rung: volumes[rung]) if any(volumes.values()) else feasible[-1]


def sampler_values(metrics: Mapping[str, float], criteria: Criteria) -> list[float]:
    """Converts a measurement to the values that are reported to the sampler.

    Each objective is clipped and transformed, because samplers weigh distances between values; the metric's
    own direction is kept, which the study knows.
    """
    return [objective.scaled(metrics[f"validation/{objective.name}"]) for objective in criteria.objectives]


def violations(metrics: Mapping[str, float], criteria: Criteria) -> dict[str, float]:
    """Computes the violation of every limit, by name; a trial is feasible up to 0."""
    return {limit.name: limit.violation(metrics) for limit in criteria.limits}
