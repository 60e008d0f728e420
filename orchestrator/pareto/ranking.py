"""Who stands where among measurements with several objectives: layers of non-domination, and within a layer
whoever spreads it most."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from orchestrator.pareto.dominance import dominance_layers, hypervolume_contributions
from orchestrator.pareto.objectives import Criteria

Ties = Literal["hypervolume", "crowding", "epsilon_net"]
"""What tells points of one layer apart: `hypervolume`, what the layer would lose without each; `crowding`,
the gap between their neighbours, with both ends of the layer first; `epsilon_net`, the one nearest the best
corner first and then always the one farthest from all before."""

CORNER = 1.05
"""Reference point of `hypervolume`, in each coordinate of scales from 0 to 1: so far out that both ends of a
layer count a little."""


@dataclass(frozen=True)
class RankedPoint:
    """What a measurement is ranked by."""

    point: tuple[float, ...] | None
    """Lower is better; None when an objective is missing or not finite."""
    violation: float
    """How far outside the limits; feasible at 0. Infinite without a point."""


def ranked_point(metrics: Mapping[str, float], criteria: Criteria) -> RankedPoint:
    """The validation part of a measurement; its violation is the sum over the limits, each in its metric's
    unit."""
    point = criteria.point(metrics)
    if point is None:
        return RankedPoint(None, math.inf)
    return RankedPoint(point, sum(max(0.0, limit.violation(metrics)) for limit in criteria.limits))


def ranks(points: Sequence[RankedPoint], ties: Ties) -> NDArray[np.int_]:
    """Position of each measurement, 0 for the best: how many stand before it.

    Feasible ones come first, by layer of non-domination and then by `ties`, on scales on which they span 0 to
    1; infeasible ones follow by their violation. What cannot be told apart shares the better position. So the
    order of the arguments makes no difference.

    Args:
        standings: All that are compared.
        ties: See `Ties`.

    Returns:
        One per argument, in the order of the arguments. An argsort would be the inverse: the arguments in the
        order of their positions.

    Source:
        Deb et al. 2002 (NSGA-II), sections III.A, III.B and VI.A. Epsilon-net: Schmucker et al. 2021, arXiv
        2106.12639.

    Deviation:
        Their net starts at the best point of the first objective; ours knows no first among objectives.
    """
    violations = np.array([each.violation for each in points])
    feasible = violations <= 0
    found = np.empty(len(points), dtype=np.int_)
    if feasible.any():
        found[feasible] = _feasible_ranks(
            np.array([each.point for each in points if each.violation <= 0]), _TIES[ties]
        )
    found[~feasible] = feasible.sum() + _how_many_before(violations[~feasible])
    return found


def survivors(count: int, reduction: float) -> int:
    """How many of so many measurements are among the best 1/`reduction`: at least one."""
    return math.ceil(count / reduction)


def _feasible_ranks(
    points: NDArray[np.float64], tie_break: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.int_]:
    # Equal points would have no gap to each other: each is placed once, for as many as it stands for.
    distinct, which, counts = np.unique(points, axis=0, return_inverse=True, return_counts=True)
    span = np.ptp(distinct, axis=0)
    scaled = (distinct - distinct.min(axis=0)) / np.where(span > 0, span, 1.0)
    layers = dominance_layers(distinct)
    found = np.empty(len(distinct), dtype=np.int_)
    before = 0
    for layer in range(layers.max() + 1):
        members = np.flatnonzero(layers == layer)
        found[members] = before + _how_many_before(tie_break(scaled[members]), counts[members])
        before += counts[members].sum()
    return found[which]


def _how_many_before(keys: NDArray[np.float64], counts: NDArray[np.int_] | int = 1) -> NDArray[np.int_]:
    """For each key, how many are lower; each stands for `counts`."""
    return np.searchsorted(np.sort(np.repeat(keys, counts)), keys, side="left")


def _loss(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Minus the hypervolume that would be lost without each point."""
    return -hypervolume_contributions(points, [CORNER] * points.shape[1])


def _crowding(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Minus the crowding distance: the gap between a point's neighbours, summed over the objectives, infinite
    at the ends."""
    distance = np.zeros(len(points))
    for column in points.T:
        if np.ptp(column) == 0:
            continue  # has no ends
        order = np.argsort(column, kind="stable")
        distance[order[1:-1]] += column[order[2:]] - column[order[:-2]]
        distance[(column == column.min()) | (column == column.max())] = np.inf
    return -distance


def _farthest_first(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn of each point when the next one is always the farthest from those before."""
    turns = np.empty(len(points))
    nearest = np.full(len(points), np.inf)
    chosen = int(np.argmin(np.linalg.norm(points, axis=1)))
    for turn in range(len(points)):
        turns[chosen] = turn
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen], axis=1))
        chosen = int(np.argmax(nearest))
    return turns


_TIES = {"hypervolume": _loss, "crowding": _crowding, "epsilon_net": _farthest_first}
