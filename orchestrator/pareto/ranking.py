"""Ranks measurements with several objectives: by non-domination layer, then by diversity within the layer."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from orchestrator.pareto.dominance import dominance_layers, hypervolume_contributions
from orchestrator.pareto.objectives import Criteria

Ties = Literal["hypervolume", "crowding", "epsilon_net"]
"""The criterion that orders the points of one layer.

`hypervolume`: the exclusive hypervolume contribution of each point. `crowding`: the crowding distance of
NSGA-II, with both ends of the layer first. `epsilon_net`: the point nearest the ideal corner first, then
repeatedly the point farthest from all points before it.
"""

CORNER = 1.05
"""Coordinate of the reference point of `hypervolume`, where each objective is scaled to span 0 to 1.

It lies a little outside the span, so that both ends of a layer have a small contribution too.
"""


@dataclass(frozen=True)
class RankedPoint:
    """What a measurement is ranked by: its objectives, and its violation of the limits."""

    point: tuple[float, ...] | None
    """(objectives,) Lower is better; None when an objective is missing or not finite."""
    violation: float
    """Sum of the violations of all limits: 0 when feasible, infinite without a point."""


def ranked_point(metrics: Mapping[str, float], criteria: Criteria) -> RankedPoint:
    """Converts a measurement, on its validation part, to a point that can be ranked.

    The violation is the sum over all limits, each in its metric's unit.
    """
    point = criteria.point(metrics)
    if point is None:
        return RankedPoint(None, math.inf)
    return RankedPoint(point, sum(max(0.0, limit.violation(metrics)) for limit in criteria.limits))


def ranks(points: Sequence[RankedPoint], ties: Ties) -> NDArray[np.int_]:
    """Computes the rank of each measurement: the number of measurements that are better, 0 for the best.

    Feasible measurements come first, by non-domination layer and then by `ties`, with each objective scaled
    so that the feasible measurements span 0 to 1. Infeasible measurements follow, by their violation. Equal
    measurements share the better rank, so the ranks do not depend on the order of the points.

    Args:
        points: The measurements to compare.
        ties: The criterion within a layer; see `Ties`.

    Returns:
        (points,) The rank of each point, in the order of the argument. This is the inverse of an argsort,
        which would list the points in the order of their ranks.

    Source:
        Deb et al. 2002 (NSGA-II), sections III.A, III.B and VI.A. Epsilon-net: Schmucker et al. 2021, arXiv
        2106.12639.

    Deviation:
        Their epsilon-net starts at the best point of the first objective. Ours starts at the point nearest
        the ideal corner, so that the order of the objectives does not matter.
    """
    violations = np.array([each.violation for each in points])
    feasible = violations <= 0
    found = np.empty(len(points), dtype=np.int_)
    if feasible.any():
        found[feasible] = _feasible_ranks(
            np.array([each.point for each in points if each.violation <= 0]), _TIES[ties]
        )
    # Every feasible measurement is better than every infeasible one.
    found[~feasible] = feasible.sum() + _how_many_lower(violations[~feasible])
    return found


def survivors(count: int, reduction: float) -> int:
    """Returns how many of `count` measurements are the best 1/`reduction`: at least one."""
    return math.ceil(count / reduction)


def _feasible_ranks(
    points: NDArray[np.float64], tie_break: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.int_]:
    # Equal points would have no gap and no contribution beside each other. Each distinct point is ranked once
    # and counts as often as it occurs.
    distinct, which, counts = np.unique(points, axis=0, return_inverse=True, return_counts=True)
    # Scaling keeps an objective with a large unit from dominating distances and volumes. An objective without
    # a span scales to 0.
    span = np.ptp(distinct, axis=0)
    scaled = (distinct - distinct.min(axis=0)) / np.where(span > 0, span, 1.0)
    layers = dominance_layers(distinct)
    found = np.empty(len(distinct), dtype=np.int_)
    before = 0
    for layer in range(layers.max() + 1):
        members = np.flatnonzero(layers == layer)
        found[members] = before + _how_many_lower(tie_break(scaled[members]), counts[members])
        before += counts[members].sum()
    return found[which]


def _how_many_lower(keys: NDArray[np.float64], counts: NDArray[np.int_] | int = 1) -> NDArray[np.int_]:
    """Counts for each key how many keys are lower; each key occurs `counts` times."""
    # `side="left"` leaves out equal keys, so that these share a rank.
    return np.searchsorted(np.sort(np.repeat(keys, counts)), keys, side="left")


def _by_contribution(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns minus the exclusive hypervolume contribution of each point."""
    return -hypervolume_contributions(points, [CORNER] * points.shape[1])


def _by_crowding(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns minus the crowding distance of each point.

    The crowding distance is the gap between a point's two neighbours, summed over the objectives, and
    infinite at both ends.
    """
    distance = np.zeros(len(points))
    for column in points.T:
        # All points are equal in this objective: it has no ends, and every gap is 0.
        if np.ptp(column) == 0:
            continue
        order = np.argsort(column, kind="stable")
        distance[order[1:-1]] += column[order[2:]] - column[order[:-2]]
        # Compared by value and not by position, so that equal ends are all infinite.
        distance[(column == column.min()) | (column == column.max())] = np.inf
    return -distance


def _by_farthest_point(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns each point's turn in a farthest-point traversal from the point nearest the ideal corner."""
    turns = np.empty(len(points))
    # Distance of each point to the nearest point that was chosen before; 0 for the chosen ones, so that none
    # is chosen twice.
    nearest = np.full(len(points), np.inf)
    chosen = int(np.argmin(np.linalg.norm(points, axis=1)))
    for turn in range(len(points)):
        turns[chosen] = turn
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen], axis=1))
        chosen = int(np.argmax(nearest))
    return turns


# Each function maps (points, objectives) to keys of which the lowest is best.
_TIES = {"hypervolume": _by_contribution, "crowding": _by_crowding, "epsilon_net": _by_farthest_point}
