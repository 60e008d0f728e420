"""The criteria of a sweep: its objectives, its limits, and which rungs count.

Inside the orchestrator every objective is minimised. Only this module converts between the metrics' own signs
and minimised values.
"""

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
    """The metric's name without the part: `utility`, not `validation/utility`."""
    direction: Literal["minimize", "maximize"]
    """Which direction is better."""
    reference: float
    """Coordinate of the hypervolume's reference point, in the metric's own sign."""
    transform: Literal["none", "log"] = "none"
    """Scale on which points are compared."""
    clip: tuple[float, float] | None = None
    """Bounds to which values outside are clipped, before the transform."""

    def scaled(self, value: float) -> float:
        """Clips and transforms a value; the metric's own direction is kept."""
        # Clipping comes first, so that a lower bound above 0 keeps the logarithm finite.
        if self.clip is not None:
            value = min(max(value, self.clip[0]), self.clip[1])
        return math.log(value) if self.transform == "log" else value

    def to_minimised(self, value: float) -> float:
        """Clips and transforms a value and gives it the sign under which lower is better."""
        return self.scaled(value) if self.direction == "minimize" else -self.scaled(value)

    def from_minimised(self, value: float) -> float:
        """Converts a minimised value back to the metric's own value; a clipped value stays clipped."""
        scaled = value if self.direction == "minimize" else -value
        return math.exp(scaled) if self.transform == "log" else scaled


@dataclass(frozen=True)
class Limit:
    """A bound on a metric that a trial must satisfy on the validation part (a constraint)."""

    metric: str
    """The metric's name without the part."""
    bound: float
    """The worst feasible value."""
    kind: Literal["at_least", "at_most"]
    """Which side of the bound is feasible."""

    @property
    def name(self) -> str:
        """The limit's name in the study, such as `utility at_least 0.4`."""
        return f"{self.metric} {self.kind} {self.bound:g}"

    def violation(self, metrics: Mapping[str, float]) -> float:
        """Computes by how much a measurement violates the limit, as Optuna's constraints expect it.

        Args:
            metrics: Metrics with keys such as `validation/utility`.

        Returns:
            The violation in the metric's unit; a measurement is feasible up to 0. Infinite when the metric is
            missing or NaN.
        """
        value = metrics.get(f"validation/{self.metric}", math.nan)
        if math.isnan(value):
            return math.inf
        return self.bound - value if self.kind == "at_least" else value - self.bound


@dataclass(frozen=True)
class Criteria:
    """All that decides whether one measurement is better than another."""

    objectives: tuple[Objective, ...]
    """The objectives, in the order of the sweep file; they are the coordinates of all points."""
    limits: tuple[Limit, ...] = ()
    """Limits that every member of the front satisfies."""
    every_rung: bool = True
    """Whether every rung of a trial counts, or its last rung only."""

    @property
    def reference(self) -> tuple[float, ...]:
        """The hypervolume's reference point, minimised as by `to_minimised`."""
        return minimised_reference(self.objectives)

    def point(self, metrics: Mapping[str, float], part: Part = "validation") -> tuple[float, ...] | None:
        """Converts a measurement to a point that minimises in every coordinate.

        Returns:
            (objectives,) The point; None when an objective is missing or not finite.
        """
        values = objective_values(metrics, self.objectives, part)
        return None if values is None else to_minimised(self.objectives, values)

    def feasible(self, metrics: Mapping[str, float]) -> bool:
        """Returns whether a measurement satisfies all limits."""
        return all(limit.violation(metrics) <= 0 for limit in self.limits)


def criteria_of(sweep: SweepSettings) -> Criteria:
    """Collects the criteria of a sweep: objectives and their limits, constraints, and `search.select`."""
    limits = [limit for name, bounds in sweep.objectives.items() for limit in limits_of(name, bounds)]
    limits += [limit for name, bounds in sweep.constraints.items() for limit in limits_of(name, bounds)]
    return Criteria(objectives_of(sweep), tuple(limits), sweep.search.select == "best_rung")


def limits_of(metric: str, bounds: BoundSettings) -> list[Limit]:
    """Returns the limits of one block of bounds: at most one from below and one from above."""
    lower = [] if bounds.at_least is None else [Limit(metric, bounds.at_least, "at_least")]
    return lower + ([] if bounds.at_most is None else [Limit(metric, bounds.at_most, "at_most")])


def objectives_of(sweep: SweepSettings) -> tuple[Objective, ...]:
    """Returns the sweep's objectives, in the order of its file."""
    return tuple(
        Objective(name, settings.direction, settings.reference, settings.transform, settings.clip)
        for name, settings in sweep.objectives.items()
    )


def to_minimised(objectives: Sequence[Objective], values: Mapping[str, float]) -> tuple[float, ...]:
    """Converts objective values to a point that minimises in every coordinate.

    Args:
        objectives: The objectives, in the order of the coordinates.
        values: Objective name -> value in the metric's own sign.

    Returns:
        (objectives,) The point.
    """
    return tuple(objective.to_minimised(values[objective.name]) for objective in objectives)


def minimised_reference(objectives: Sequence[Objective]) -> tuple[float, ...]:
    """Returns the hypervolume's reference point, minimised as by `to_minimised`."""
    return tuple(objective.to_minimised(objective.reference) for objective in objectives)


def objective_values(
    metrics: Mapping[str, float], objectives: Sequence[Objective], part: Part
) -> dict[str, float] | None:
    """Reads the objectives from a trial's metrics.

    Args:
        metrics: Metrics with keys such as `test/utility`.
        objectives: The objectives to read.
        part: `validation`, which the search uses, or `test`, which is reported.

    Returns:
        Objective name -> value in the metric's own sign; None when one is missing or not finite.
    """
    values = {objective.name: metrics.get(f"{part}/{objective.name}", math.nan) for objective in objectives}
    return values if all(math.isfinite(value) for value in values.values()) else None


def why_unusable(metrics: Mapping[str, float], objectives: Sequence[Objective]) -> str | None:
    """Explains why a trial with these metrics at its last rung has failed.

    A NaN in any metric is a failure. An infinite value is a failure only in an objective: elsewhere it may be
    the correct value of a logarithm.

    Args:
        metrics: Metrics with keys such as `test/utility`.
        objectives: The objectives; each must have a value `validation/<name>`.

    Returns:
        The reason, as a text for the user; None when the metrics are usable.
    """
    missing = [objective.name for objective in objectives if f"validation/{objective.name}" not in metrics]
    if missing:
        return f"no value for the objective{'s' * (len(missing) > 1)} {', '.join(missing)}"
    # The test part is checked too, though the search does not use it: the front could not report the trial.
    must_be_finite = {
        f"{part}/{objective.name}" for objective in objectives for part in ("validation", "test")
    }
    wrong = sorted(
        key
        for key, value in metrics.items()
        if math.isnan(value) or (key in must_be_finite and math.isinf(value))
    )
    return f"not a finite number: {', '.join(f'{key} = {metrics[key]}' for key in wrong)}" if wrong else None
