"""Non-domination and hypervolume, on points that minimise in every coordinate."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

Item = TypeVar("Item")


def non_dominated(points: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point dominates.

    Equal points do not dominate each other, so duplicates are all kept. A point that is not finite in every
    coordinate is never
    kept and dominates nothing: -inf would otherwise win every comparison.

    Args:
        points: (points, objectives), lower is better.

    Returns:
        (points,) True where non-dominated.
    """
    finite, rows = _finite_rows(points)
    mask = np.zeros(len(finite), dtype=bool)
    if len(rows):
        mask[finite] = moocore.is_nondominated(rows, keep_weakly=True)
    return mask


def dominance_layers(points: ArrayLike) -> NDArray[np.int_]:
    """Layer of each point: 0 where none dominates it, 1 where only points of layer 0 do, and so on. Equal
    points share a layer.

    Args:
        points: (points, objectives), at least one, finite; lower is better.

    Returns:
        (points,) counted from 0 without gaps.
    """
    return np.asarray(moocore.pareto_rank(np.asarray(points, dtype=np.float64)), dtype=np.int_)


def hypervolume(points: ArrayLike, reference: Sequence[float]) -> float:
    """Volume between the points and the reference point.

    Args:
        points: (points, objectives), lower is better. A point at or beyond the reference in any coordinate
            adds nothing; nor does one that is not finite.
        reference: (objectives,) the worst point that still counts.

    Returns:
        The dominated volume, in the product of the objectives' units; 0 without points.
    """
    _, rows = _finite_rows(points)
    return float(moocore.hypervolume(rows, ref=list(reference))) if len(rows) else 0.0


def hypervolume_contributions(points: ArrayLike, reference: Sequence[float]) -> NDArray[np.float64]:
    """Volume that would be lost without each point; 0 for one that has an equal.

    Args:
        points: (points, objectives), finite, lower is better.
        reference: (objectives,) the worst point that still counts.

    Returns:
        (points,) in the product of the objectives' units.
    """
    rows = np.asarray(points, dtype=np.float64)
    if rows.shape[1] > 1:
        return np.asarray(moocore.hv_contributions(rows, ref=list(reference)), dtype=np.float64)
    # moocore knows no lone objective.
    whole = hypervolume(rows, reference)
    return np.array(
        [whole - hypervolume(np.delete(rows, index, axis=0), reference) for index in range(len(rows))]
    )


class NonDominated(Generic[Item]):
    """A set of items of which no item's point dominates another's, grown one by one. Equal points are all
    kept.

    Args:
        reference: (objectives,) the worst point that still counts towards the hypervolume.
    """

    def __init__(self, reference: Sequence[float]) -> None:
        self.reference = tuple(reference)
        self.items: list[Item] = []
        """In the order in which they came, without those that a later one has driven out."""
        self._points = np.empty((0, len(self.reference)))

    def would_join(self, point: Sequence[float]) -> bool:
        """Whether none of the items dominates a point; one that is not finite never joins."""
        new = np.asarray(point, dtype=np.float64)
        no_worse = np.all(self._points <= new, axis=1)
        return bool(np.all(np.isfinite(new))) and not bool(
            np.any(no_worse & np.any(self._points < new, axis=1))
        )

    def add(self, point: Sequence[float], item: Item) -> bool:
        """Take an item unless it is dominated, and drop those that it dominates. Returns: whether it was
        taken."""
        if not self.would_join(point):
            return False
        new = np.asarray(point, dtype=np.float64)
        stays = np.any(self._points < new, axis=1) | np.all(self._points == new, axis=1)
        self.items = [*itertools.compress(self.items, stays), item]
        self._points = np.vstack([self._points[stays], new])
        return True

    def gain(self, point: Sequence[float]) -> float:
        """Hypervolume that a point would add."""
        if not self.would_join(point):
            return 0.0
        return (
            hypervolume(np.vstack([self._points, np.asarray(point, dtype=np.float64)]), self.reference)
            - self.hypervolume
        )

    @property
    def hypervolume(self) -> float:
        """Volume between the items' points and the reference point."""
        return hypervolume(self._points, self.reference)


@dataclass(frozen=True)
class Attainment:
    """How far repeated runs come, as the corners of three nested edges: (corners, 2) each, from left to
    right, lower is better."""

    best: NDArray[np.float64]
    """What at least one run attains: it has a point that is no worse in either coordinate."""
    median: NDArray[np.float64]
    """What at least half of the runs attain."""
    worst: NDArray[np.float64]
    """What all runs attain; no corner when a run has no points."""


def attainment(runs: Sequence[ArrayLike]) -> Attainment:
    """Summarise the point sets of several runs without averaging points that do not belong together.

    Args:
        runs: Of each run its points, (points, 2), lower is better; points that are not finite attain nothing.

    Raises:
        ValueError: The points do not have two coordinates: edges of more dimensions could not be drawn.

    Source: Grunert da Fonseca, Fonseca and Hall (2001), "Inferential performance assessment of stochastic
    optimisers and the attainment
        function".
    """
    sets = []
    for points in runs:
        _, rows = _finite_rows(points)
        # A run without points counts among the runs, and attains nothing.
        sets.append(rows if len(rows) else np.full((1, 2), np.inf))
    if any(rows.shape[1] != 2 for rows in sets):
        raise ValueError("attainment surfaces are for two objectives")
    if not sets:
        return Attainment(*(np.empty((0, 2)) for _ in range(3)))
    numbers = np.repeat(np.arange(len(sets)), [len(rows) for rows in sets])
    # Rows of x, y and the percentile of runs, 0 for at least one. Corners at infinity come of runs without
    # points.
    corners = moocore.eaf(np.vstack(sets), numbers, percentiles=[0, 50, 100])
    corners = corners[np.all(np.isfinite(corners), axis=1)]
    return Attainment(*(corners[corners[:, 2] == percentile, :2] for percentile in (0, 50, 100)))


def _finite_rows(points: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    array = np.asarray(points, dtype=np.float64)
    if array.size == 0:
        return np.zeros(len(array), dtype=bool), np.empty((0, 0))
    finite: NDArray[np.bool_] = np.all(np.isfinite(array), axis=1)
    return finite, array[finite]
