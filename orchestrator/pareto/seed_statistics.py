"""Statistics of a front over seeds: means, confidence intervals and attainment of its repetitions."""

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
    """The mean of repeated measurements, with its confidence interval."""

    mean: float
    spread: float | None
    """Sample standard deviation: how much one run differs from another. None for a single value."""
    half_width: float | None
    """Half the width of the 95 % confidence interval of the mean (Student's t). None for a single value."""
    count: int

    def text(self) -> str:
        """Formats the estimate as `0.5120 ± 0.0130`; the mean alone when there is no interval."""
        return f"{self.mean:.4f}" if self.half_width is None else f"{self.mean:.4f} ± {self.half_width:.4f}"


@dataclass(frozen=True)
class ConfirmedMember:
    """A member of the front with its repetitions."""

    member: FrontMember
    values: tuple[Mapping[str, float], ...]
    """Objective name -> value on the test part, for every repetition that did not fail."""
    estimates: Mapping[str, Estimate]
    """Objective name -> estimate; empty when all repetitions failed."""
    failures: tuple[str, ...]
    """The reasons of the repetitions that failed."""
    infeasible: int
    """Number of repetitions that violated one of the sweep's limits."""


@dataclass(frozen=True)
class ConfirmedFront:
    """A front with its repetitions under other seeds.

    Repetitions of rungs that have since left the front are ignored.
    """

    members: tuple[ConfirmedMember, ...]
    """The confirmed members, in the front's order; members without a repetition are left out."""
    front_size: int
    """Number of members of the front, confirmed or not."""
    searched_hypervolume: float
    """Hypervolume of the confirmed members, with the values that the search found."""
    hypervolumes: Mapping[int, float]
    """Seed -> hypervolume of all confirmed members under that seed.

    Only seeds under which every confirmed member has ended are included; a failed repetition adds nothing.
    """
    attainment: Attainment | None
    """Attainment surfaces over these seeds, minimised.

    None unless there are two objectives and at least two such seeds.
    """

    @property
    def hypervolume(self) -> Estimate | None:
        """The mean hypervolume over the seeds; None without a complete seed."""
        return estimate(self.hypervolumes.values()) if self.hypervolumes else None

    @property
    def is_whole(self) -> bool:
        """Whether every member of the front was confirmed."""
        return len(self.members) == self.front_size


def estimate(values: Iterable[float]) -> Estimate:
    """Computes the mean, the sample standard deviation and the 95 % t-interval of the mean.

    Args:
        values: At least one value, each of an independent run.
    """
    values = list(values)
    count, mean = len(values), statistics.fmean(values)
    # A single run says nothing about the spread: an interval of width 0 would claim certainty.
    if count == 1:
        return Estimate(mean, None, None, 1)
    spread = statistics.stdev(values)
    half_width = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * spread / math.sqrt(count)
    return Estimate(mean, spread, half_width, count)


def confirmed_front(
    front: Front, criteria: Criteria, confirmations: Sequence[Confirmation]
) -> ConfirmedFront | None:
    """Combines the members of a front with their repetitions.

    Args:
        front: The front of the sweep as it is now.
        criteria: The criteria that the front was built with.
        confirmations: All repetitions of the sweep.

    Returns:
        The confirmed front; None when no member has a repetition.
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
    # A seed under which a member is still missing would give too small a hypervolume.
    seeds = sorted(set.intersection(*(set(found) for found in by_seed.values())))
    # A failed repetition has no point, so the hypervolume of its seed is smaller, as it should be.
    points = {
        seed: [
            point for key in keys if (point := criteria.point(by_seed[key][seed].metrics, "test")) is not None
        ]
        for seed in seeds
    }
    # The hypervolume of the search is taken over the confirmed members only, so that both can be compared.
    searched = [to_minimised(criteria.objectives, member.objectives) for member in members]
    return ConfirmedFront(
        members=tuple(_confirmed(member, criteria, of[member.key]) for member in members),
        front_size=len(front.members),
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
