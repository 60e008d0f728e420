"""Pareto dominance, hypervolume and attainment surfaces, for points that minimise in every coordinate."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

Item = TypeVar("Item")


def non_dominated(points: ArrayLike) -> NDArray[np.bool_]:
    """Marks the points that no other point dominates.

    Equal points do not dominate each other, so all duplicates are kept. A point that is not finite in every
    coordinate is never kept and dominates nothing: -inf would otherwise win every comparison.

    Args:
        points: (points, objectives), lower is better.

    Returns:
        (points,) True where non-dominated.
    """
    finite, rows = _finite_rows(points)
    mask = np.zeros(len(finite), dtype=bool)
    if len(rows):
        # Without `keep_weakly` moocore keeps only one of several equal points.
        mask[finite] = moocore.is_nondominated(rows, keep_weakly=True)
    return mask


def dominance_layers(points: ArrayLike) -> NDArray[np.int_]:
    """Sorts points into layers of non-domination (non-dominated sorting).

    Layer 0 holds the points that no point dominates, layer 1 those that only points of layer 0 dominate, and
    so on. Equal points share a layer.

    Args:
        points: (points, objectives), at least one, finite; lower is better.

    Returns:
        (points,) The layer of each point, counted from 0 without gaps.
    """
    return np.asarray(moocore.pareto_rank(np.asarray(points, dtype=np.float64)), dtype=np.int_)


def hypervolume(points: ArrayLike, reference: Sequence[float]) -> float:
    """Computes the hypervolume: the volume between the points and the reference point.

    Args:
        points: (points, objectives), lower is better. A point at or beyond the reference in any coordinate
            adds nothing, and neither does a point that is not finite.
        reference: (objectives,) The worst point that still counts.

    Returns:
        The dominated volume, in the product of the objectives' units; 0 without points.
    """
    _, rows = _finite_rows(points)
    # moocore raises for an array without columns, which is what no points become.
    return float(moocore.hypervolume(rows, ref=list(reference))) if len(rows) else 0.0


def hypervolume_contributions(points: ArrayLike, reference: Sequence[float]) -> NDArray[np.float64]:
    """Computes the exclusive hypervolume contribution of each point: the volume that is lost without it.

    Args:
        points: (points, objectives), finite, lower is better.
        reference: (objectives,) The worst point that still counts.

    Returns:
        (points,) The contributions, in the product of the objectives' units; 0 for a point that occurs twice.
    """
    rows = np.asarray(points, dtype=np.float64)
    if rows.shape[1] > 1:
        return np.asarray(moocore.hv_contributions(rows, ref=list(reference)), dtype=np.float64)
    # moocore's contributions need at least two objectives, so a single objective is computed by leaving out
    # each point in turn.
    whole = hypervolume(rows, reference)
    return np.array(
        [whole - hypervolume(np.delete(rows, index, axis=0), reference) for index in range(len(rows))]
    )


class NonDominated(Generic[Item]):
    """A non-dominated archive: items of which no item's point dominates another's, added one at a time.

    Items with equal points are all kept.

    Args:
        reference: (objectives,) The worst point that still counts towards the hypervolume.
    """

    def __init__(self, reference: Sequence[float]) -> None:
        self.reference = tuple(reference)
        self.items: list[Item] = []
        """The items in the order in which they were added, without those that a later item dominates."""
        # Row i belongs to `items[i]`. The points are kept apart so that a comparison is one numpy operation.
        self._points = np.empty((0, len(self.reference)))

    def would_join(self, point: Sequence[float]) -> bool:
        """Returns whether no item dominates the point; False for a point that is not finite."""
        new = np.asarray(point, dtype=np.float64)
        no_worse = np.all(self._points <= new, axis=1)
        return bool(np.all(np.isfinite(new))) and not bool(
            np.any(no_worse & np.any(self._points < new, axis=1))
        )

    def add(self, point: Sequence[float], item: Item) -> bool:
        """Adds an item unless its point is dominated, and drops the items that it dominates.

        Returns:
            Whether the item was added.
        """
        if not self.would_join(point):
            return False
        new = np.asarray(point, dtype=np.float64)
        # A point stays if it is better in some coordinate, or equal in all of them.
        stays = np.any(self._points < new, axis=1) | np.all(self._points == new, axis=1)
        self.items = [*itertools.compress(self.items, stays), item]
        self._points = np.vstack([self._points[stays], new])
        return True

    def gain(self, point: Sequence[float]) -> float:
        """Returns the hypervolume that the point would add; 0 when it would not join."""
        if not self.would_join(point):
            return 0.0
        return (
            hypervolume(np.vstack([self._points, np.asarray(point, dtype=np.float64)]), self.reference)
            - self.hypervolume
        )

    @property
    def hypervolume(self) -> float:
        """The hypervolume of the items' points, against the reference point."""
        return hypervolume(self._points, self.reference)


@dataclass(frozen=True)
class Attainment:
    """Attainment surfaces of repeated runs: three nested staircases, each given by its corners.

    A run attains a location when it has a point that is no worse there in either coordinate. Each surface is
    an array (corners, 2) from left to right, lower is better.
    """

    best: NDArray[np.float64]
    """The surface that at least one run attains."""
    median: NDArray[np.float64]
    """The surface that at least half of the runs attain."""
    worst: NDArray[np.float64]
    """The surface that all runs attain; empty when a run has no points."""


def attainment(runs: Sequence[ArrayLike]) -> Attainment:
    """Computes the best, median and worst attainment surface of several runs.

    Attainment surfaces summarise point sets without averaging points that do not belong together.

    Args:
        runs: The points of each run, (points, 2), lower is better; points that are not finite attain nothing.

    Raises:
        ValueError: The points do not have two coordinates: surfaces of more dimensions could not be drawn.

    Source:
        Grunert da Fonseca, Fonseca and Hall (2001), "Inferential performance assessment of stochastic
        optimisers and the attainment function".
    """
    sets = []
    for points in runs:
        _, rows = _finite_rows(points)
        # A run without points still counts among the runs. moocore needs a row for it, so it gets a point at
        # infinity, which attains nothing.
        sets.append(rows if len(rows) else np.full((1, 2), np.inf))
    if any(rows.shape[1] != 2 for rows in sets):
        raise ValueError("attainment surfaces are for two objectives")
    if not sets:
        return Attainment(*(np.empty((0, 2)) for _ in range(3)))
    numbers = np.repeat(np.arange(len(sets)), [len(rows) for rows in sets])
    # moocore returns rows of x, y and percentile of runs, where percentile 0 means at least one run. Corners
    # at infinity belong to runs without points and are dropped.
    corners = moocore.eaf(np.vstack(sets), numbers, percentiles=[0, 50, 100])
    corners = corners[np.all(np.isfinite(corners), axis=1)]
    return Attainment(*(corners[corners[:, 2] == percentile, :2] for percentile in (0, 50, 100)))


def _finite_rows(points: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    array = np.asarray(points, dtype=np.float64)
    # An empty list becomes an array with one dimension, over which the reduction below would fail.
    if array.size == 0:
        return np.zeros(len(array), dtype=bool), np.empty((0, 0))
    finite: NDArray[np.bool_] = np.all(np.isfinite(array), axis=1)
    return finite, array[finite]
