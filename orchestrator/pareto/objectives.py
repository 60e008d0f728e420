"""What counts as good in a sweep: objectives, limits, and which rungs count. Inside, everything minimises;
only this module turns signs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from search_spaces.settings.sweep_settings import BoundSettings, SweepSettings

Part = Literal["validation", "test"]


@dataclass(frozen=True)
class Objective:
    """One objective of a sweep."""

    name: str
    """Metric, without the part: `utility`, not `validation/utility`."""
    direction: Literal["minimize", "maximize"]
    """Which way is better."""
    reference: float
    """Coordinate of the hypervolume's reference point, in the metric's own sign."""
    transform: Literal["none", "log"] = "none"
    """Scale on which points are compared."""
    clip: tuple[float, float] | None = None
    """Values outside are moved to the nearer bound, before the transform."""

    def scaled(self, value: float) -> float:
        """The value clipped and on the objective's scale, in the metric's own direction."""
        if self.clip is not None:
            value = min(max(value, self.clip[0]), self.clip[1])
        return math.log(value) if self.transform == "log" else value

    def to_minimised(self, value: float) -> float:
        """The value on the objective's scale, with the sign under which lower is better."""
        return self.scaled(value) if self.direction == "minimize" else -self.scaled(value)

    def from_minimised(self, value: float) -> float:
        """The metric's own value; what was clipped stays clipped."""
        scaled = value if self.direction == "minimize" else -value
        return math.exp(scaled) if self.transform == "log" else scaled


@dataclass(frozen=True)
class Limit:
    """A bound that a trial must keep to on the validation part."""

    metric: str
    """Metric, without the part."""
    bound: float
    """Worst feasible value."""
    kind: Literal["at_least", "at_most"]
    """Which side of the bound is feasible."""

    @property
    def name(self) -> str:
        """`utility at_least 0.4`: its name in the study."""
        return f"{self.metric} {self.kind} {self.bound:g}"

    def violation(self, metrics: Mapping[str, float]) -> float:
        """How far outside a trial is, in the metric's unit: feasible up to 0; infinite where the metric is
        missing or NaN.

        Args:
            metrics: Keys such as `validation/utility`.
        """
        value = metrics.get(f"validation/{self.metric}", math.nan)
        if math.isnan(value):
            return math.inf
        return self.bound - value if self.kind == "at_least" else value - self.bound


@dataclass(frozen=True)
class Criteria:
    """Everything that decides whether one measurement is better than another."""

    objectives: tuple[Objective, ...]
    """Coordinates, in the order of the file."""
    limits: tuple[Limit, ...] = ()
    """A point outside any of them never joins the front."""
    every_rung: bool = True
    """Whether every rung of a trial counts, or its last one only."""

    @property
    def reference(self) -> tuple[float, ...]:
        """The hypervolume's reference point, with the signs of `to_minimised`."""
        return minimised_reference(self.objectives)

    def point(self, metrics: Mapping[str, float], part: Part = "validation") -> tuple[float, ...] | None:
        """A measurement as a point that minimises in every coordinate; None when an objective is missing or
        not finite."""
        values = objective_values(metrics, self.objectives, part)
        return None if values is None else to_minimised(self.objectives, values)

    def feasible(self, metrics: Mapping[str, float]) -> bool:
        """Whether a measurement keeps to all limits."""
        return all(limit.violation(metrics) <= 0 for limit in self.limits)


def criteria_of(sweep: SweepSettings) -> Criteria:
    """The sweep's objectives with their limits, its constraints, and whether every rung counts."""
    limits = [limit for name, bounds in sweep.objectives.items() for limit in limits_of(name, bounds)]
    limits += [limit for name, bounds in sweep.constraints.items() for limit in limits_of(name, bounds)]
    return Criteria(objectives_of(sweep), tuple(limits), sweep.search.select == "best_rung")


def limits_of(metric: str, bounds: BoundSettings) -> list[Limit]:
    """The one or two limits that a block of bounds means."""
    lower = [] if bounds.at_least is None else [Limit(metric, bounds.at_least, "at_least")]
    return lower + ([] if bounds.at_most is None else [Limit(metric, bounds.at_most, "at_most")])


def objectives_of(sweep: SweepSettings) -> tuple[Objective, ...]:
    """The sweep's objectives, in the order of its file."""
    return tuple(
        Objective(name, settings.direction, settings.reference, settings.transform, settings.clip)
        for name, settings in sweep.objectives.items()
    )


def to_minimised(objectives: Sequence[Objective], values: Mapping[str, float]) -> tuple[float, ...]:
    """Objective values as one point that minimises in every coordinate.

    Args:
        objectives: Coordinates, in order.
        values: Objective name -> value in the metric's own sign.

    Returns:
        One number per objective.
    """
    return tuple(objective.to_minimised(values[objective.name]) for objective in objectives)


def minimised_reference(objectives: Sequence[Objective]) -> tuple[float, ...]:
    """The hypervolume's reference point, with the signs of `to_minimised`."""
    return tuple(objective.to_minimised(objective.reference) for objective in objectives)


def objective_values(
    metrics: Mapping[str, float], objectives: Sequence[Objective], part: Part
) -> dict[str, float] | None:
    """Reads the objectives from a trial's metrics.

    Args:
        metrics: Keys such as `test/utility`.
        objectives: What to read.
        part: `validation` is what the search sees, `test` is what is reported.

    Returns:
        Objective name -> value in the metric's own sign; None when one is missing or not finite.
    """
    values = {objective.name: metrics.get(f"{part}/{objective.name}", math.nan) for objective in objectives}
    return values if all(math.isfinite(value) for value in values.values()) else None


def why_unusable(metrics: Mapping[str, float], objectives: Sequence[Objective]) -> str | None:
    """Why a trial with these last metrics has failed.

    A NaN anywhere is a failure. Infinity is one only in an objective: elsewhere it may be the honest value of
    a logarithm.

    Args:
        metrics: Keys such as `test/utility`.
        objectives: Those that the search needs, as `validation/<name>`.

    Returns:
        A reason for people; None when all is well.
    """
    missing = [objective.name for objective in objectives if f"validation/{objective.name}" not in metrics]
    if missing:
        return f"no value for the objective{'s' * (len(missing) > 1)} {', '.join(missing)}"
    must_be_finite = {
        f"{part}/{objective.name}" for objective in objectives for part in ("validation", "test")
    }
    wrong = sorted(
        key
        for key, value in metrics.items()
        if math.isnan(value) or (key in must_be_finite and math.isinf(value))
    )
    return f"not a finite number: {', '.join(f'{key} = {metrics[key]}' for key in wrong)}" if wrong else None
