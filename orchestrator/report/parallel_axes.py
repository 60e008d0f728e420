"""Axes of parallel coordinates: the position of every trial on each searched key and objective."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.pareto.objectives import Objective
from orchestrator.report.figure_data import Point, better
from search_spaces.settings.space import Domain
from search_spaces.settings.sweep_settings import SweepSettings

_STEPS = 4
# A trial without a conditional key stands at `off`, below the searched values by this share of their range.
_OFF = 0.15


@dataclass(frozen=True)
class ParallelAxis:
    """One axis, in units of its own scale (a logarithm, or the index of a choice)."""

    title: str
    positions: tuple[float, ...]
    """The positions of the trials, in the order in which they were passed."""
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def share(self, position: float) -> float:
        """Returns a position between 0 (low) and 1 (high); 0.5 where the axis has no range."""
        return (position - self.low) / (self.high - self.low) if self.high > self.low else 0.5


def parallel_axes(
    sweep: SweepSettings, objectives: Sequence[Objective], points: Sequence[Point]
) -> list[ParallelAxis]:
    """Returns an axis per searched key, in the order of the file, and one per objective.

    Args:
        sweep: The settings, of which the space gives scales and bounds.
        objectives: The sweep's objectives.
        points: The trials to draw.
    """
    axes = [_searched(key, domain, points) for key, domain in sweep.space.items()]
    return axes + [_measured(objective, points) for objective in objectives]


def _searched(key: str, domain: Domain, points: Sequence[Point]) -> ParallelAxis:
    if domain.kind == "choice":
        choices = list(domain.choices)
        low, high = 0.0, max(len(choices) - 1.0, 0.0)
        off, ticks = -1.0, [(float(index), str(choice)) for index, choice in enumerate(choices)]
        drawn = {
            index: float(choices.index(params[key])) for index, params in _params(points) if key in params
        }
    else:
        scale = math.log10 if domain.is_log else float
        low, high = scale(domain.low), scale(domain.high)
        off = low - _OFF * (high - low)
        ticks = [(mark, f"{10**mark if domain.is_log else mark:.2g}") for mark in _marks(low, high)]
        drawn = {index: scale(params[key]) for index, params in _params(points) if key in params}
    if len(drawn) < len(points):
        low, ticks = off, [(off, "off"), *ticks]
    return ParallelAxis(
        key, tuple(drawn.get(index, off) for index in range(len(points))), low, high, tuple(ticks)
    )


def _measured(objective: Objective, points: Sequence[Point]) -> ParallelAxis:
    values = tuple(point.values[objective.name] for point in points)
    low, high = min(values, default=0.0), max(values, default=1.0)
    ticks = tuple((mark, f"{mark:.3g}") for mark in _marks(low, high))
    return ParallelAxis(f"{objective.name} ({better(objective)})", values, low, high, ticks)


def _params(points: Sequence[Point]) -> list[tuple[int, dict[str, float]]]:
    return [(index, dict(point.record.params)) for index, point in enumerate(points)]


def _marks(low: float, high: float) -> list[float]:
    return [low + (high - low) * step / _STEPS for step in range(_STEPS + 1)] if high > low else [low]
