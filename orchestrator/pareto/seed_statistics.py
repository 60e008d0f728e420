"""How sure a front is: its members' means, intervals and attainment over the seeds under which they were run
again."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from orchestrator.pareto.dominance import Attainment, attainment, hypervolume
from orchestrator.pareto.front import Front, FrontMember
from orchestrator.pareto.objectives import Criteria, objective_values, to_minimised
from orchestrator.storage.followup_records import Confirmation

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """The mean of repeated measurements, and how sure it is."""

    mean: float
    spread: float | None
    """Sample standard deviation: how much one run differs from another. None for a single value."""
    half_width: float | None
    """Half of the 95 % interval of the mean (Student's t). None for a single value."""
    count: int

    def text(self) -> str:
        """`0.5120 ± 0.0130`; the mean alone where there is no interval."""
        return f"{self.mean:.4f}" if self.half_width is None else f"{self.mean:.4f} ± {self.half_width:.4f}"


@dataclass(frozen=True)
class ConfirmedMember:
    """A member of the front with its repetitions."""

    member: FrontMember
    values: tuple[Mapping[str, float], ...]
    """Objective name -> value on the test part, of every repetition that did not fail."""
    estimates: Mapping[str, Estimate]
    """By objective; empty when all repetitions failed."""
    failures: tuple[str, ...]
    """Reasons of the repetitions that failed."""
    infeasible: int
    """Repetitions that broke one of the sweep's limits."""


@dataclass(frozen=True)
class ConfirmedFront:
    """What the repetitions say about a front. Repetitions of what has left the front since are not looked
    at."""

    members: tuple[ConfirmedMember, ...]
    """In the front's order; members without a repetition are left out."""
    of_members: int
    """Members of the front, confirmed or not."""
    searched_hypervolume: float
    """Of the confirmed members as the search found them."""
    hypervolumes: Mapping[int, float]
    """Seed -> hypervolume of all confirmed members under it, for seeds under which each has ended; a failed
    one adds nothing."""
    attainment: Attainment | None
    """Over these seeds, minimised; None with other than two objectives, or fewer than two such seeds."""

    @property
    def hypervolume(self) -> Estimate | None:
        """Over the seeds; None without a complete one."""
        return estimate(self.hypervolumes.values()) if self.hypervolumes else None

    @property
    def is_whole(self) -> bool:
        """Whether every member of the front was confirmed."""
        return len(self.members) == self.of_members


def estimate(values: Iterable[float]) -> Estimate:
    """Mean, sample standard deviation and 95 % t-interval.

    Args:
        values: At least one, each of an independent run.
    """
    values = list(values)
    count, mean = len(values), statistics.fmean(values)
    if count == 1:
        return Estimate(mean, None, None, 1)
    spread = statistics.stdev(values)
    half_width = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * spread / math.sqrt(count)
    return Estimate(mean, spread, half_width, count)


def confirmed_front(
    front: Front, criteria: Criteria, confirmations: Sequence[Confirmation]
) -> ConfirmedFront | None:
    """Put repetitions and members together.

    Args:
        front: Of the sweep as it is now.
        criteria: What the front was built with.
        confirmations: Of the sweep.

    Returns:
        None when no member has a repetition.
    """
    members = [
        member
        for member in front.members
        if any((one.trial_id, one.rung) == member.key for one in confirmations)
    ]
    if not members:
        return None
    keys = [member.key for member in members]
    of = {key: [one for one in confirmations if (one.trial_id, one.rung) == key] for key in keys}
    by_seed = {key: {one.seed: one for one in of[key]} for key in keys}
    seeds = sorted(set.intersection(*(set(found) for found in by_seed.values())))
    points = {
        seed: [
            point for key in keys if (point := criteria.point(by_seed[key][seed].metrics, "test")) is not None
        ]
        for seed in seeds
    }
    searched = [to_minimised(criteria.objectives, member.objectives) for member in members]
    return ConfirmedFront(
        members=tuple(_confirmed(member, criteria, of[member.key]) for member in members),
        of_members=len(front.members),
        searched_hypervolume=hypervolume(searched, criteria.reference),
        hypervolumes={seed: hypervolume(points[seed], criteria.reference) for seed in seeds},
        attainment=(
            attainment(list(points.values())) if len(criteria.objectives) == 2 and len(seeds) > 1 else None
        ),
    )


def _confirmed(
    member: FrontMember, criteria: Criteria, repetitions: Sequence[Confirmation]
) -> ConfirmedMember:
    ended = [one for one in repetitions if one.reason is None]
    found = [objective_values(one.metrics, criteria.objectives, "test") for one in ended]
    values = tuple(value for value in found if value is not None)
    names = [objective.name for objective in criteria.objectives]
    return ConfirmedMember(
        member=member,
        values=values,
        estimates={name: estimate(value[name] for value in values) for name in names} if values else {},
        failures=tuple(one.reason for one in repetitions if one.reason is not None),
        infeasible=sum(not criteria.feasible(one.metrics) for one in ended),
    )
