"""The Pareto front of a sweep, over all trials and rungs.

Members are chosen on the validation part and reported on the test part. A sweep that chose and reported on
the same items would overfit its own evaluation: the best of many noisy numbers looks better than it is. Every
rung is a candidate, because the best moment to stop unlearning is often not the last.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.pareto.dominance import NonDominated, hypervolume, non_dominated
from orchestrator.pareto.objectives import Criteria, Objective, criteria_of, objective_values, to_minimised
from orchestrator.storage.trial_records import BASELINES, Status, TrialRecord
from search_spaces.settings.sweep_settings import SweepSettings

Key = tuple[str, int]
"""A trial's id and a rung, counted from 1."""


def rung_name(record: TrialRecord, rung: int) -> str:
    """Returns the name of a rung: `t0007` for a trial's last rung, `t0007@2` for an earlier one."""
    return record.trial_id if rung == len(record.rungs) else f"{record.trial_id}@{rung}"


@dataclass(frozen=True)
class FrontMember:
    """A member of the front, or a candidate for it: one trial at one of its rungs."""

    record: TrialRecord
    rung: int
    """The rung, counted from 1."""
    objectives: Mapping[str, float]
    """Objective name -> value on the test part, which is reported."""
    validation: Mapping[str, float]
    """Objective name -> value on the validation part, which the search uses."""

    @property
    def key(self) -> Key:
        """The trial's id and the rung."""
        return self.record.trial_id, self.rung

    @property
    def name(self) -> str:
        """The member's name: `t0007` at the trial's end, `t0007@2` at an earlier rung."""
        return rung_name(self.record, self.rung)


@dataclass(frozen=True)
class Front:
    """The Pareto front of a sweep with its hypervolume."""

    objectives: tuple[Objective, ...]
    members: tuple[FrontMember, ...]
    """The members, from best to worst in the first objective."""
    hypervolume: float
    """The hypervolume of the members' test values, against the objectives' reference point."""

    @property
    def keys(self) -> frozenset[Key]:
        """The trial ids and rungs of the members."""
        return frozenset(member.key for member in self.members)

    @property
    def trial_ids(self) -> frozenset[str]:
        """The ids of the trials that have a member."""
        return frozenset(member.record.trial_id for member in self.members)


class GrowingFront:
    """The front of a running sweep, updated as trials end.

    Each trial adds its rungs; earlier trials are not visited again, so the cost of an update does not grow
    with the number of trials.

    Args:
        criteria: Objectives and limits of the sweep.
    """

    def __init__(self, criteria: Criteria) -> None:
        self.criteria = criteria
        self._chosen: NonDominated[FrontMember] = NonDominated(criteria.reference)

    def add(self, record: TrialRecord) -> None:
        """Adds the rungs of a trial that has ended with a result; other trials have no candidates."""
        for member in candidates(record, self.criteria):
            self._chosen.add(to_minimised(self.criteria.objectives, member.validation), member)

    def would_join(self, record: TrialRecord, rung: int) -> bool:
        """Returns whether a rung just measured on the validation part may still end up on the front.

        The answer assumes that the trial ends with a result. A rung that is refused here stays dominated for
        good, so its weights need not be kept and its test part need not be measured.

        Args:
            record: A running trial with its rungs up to this one.
            rung: The rung, counted from 1.
        """
        metrics = record.rungs[rung - 1]
        point = self.criteria.point(metrics)
        if point is None or not self.criteria.feasible(metrics):
            return False
        # A trial's rungs join the archive only when it ends, so its own earlier rungs are compared here. If
        # only the last rung counts, no earlier rung can replace it.
        before = record.rungs[: rung - 1] if self.criteria.every_rung else []
        earlier = [self.criteria.point(other) for other in before if self.criteria.feasible(other)]
        dominated = any(other is not None and _dominates(other, point) for other in earlier)
        return not dominated and self._chosen.would_join(point)

    def gain(self, metrics: Mapping[str, float]) -> float:
        """Returns the hypervolume on the validation part that a measurement would add."""
        point = self.criteria.point(metrics)
        return 0.0 if point is None or not self.criteria.feasible(metrics) else self._chosen.gain(point)

    @property
    def validation_hypervolume(self) -> float:
        """The hypervolume of the chosen rungs, on the validation part."""
        return self._chosen.hypervolume

    @property
    def chosen(self) -> frozenset[Key]:
        """The trial ids and rungs that are non-dominated on the validation part.

        These are the members of the reported front, and the rungs that may still become members.
        """
        return frozenset(member.key for member in self._chosen.items)

    def reported(self) -> Front:
        """Builds the reported front: the chosen rungs that are also non-dominated on the test part."""
        chosen, objectives = list(self._chosen.items), self.criteria.objectives
        # The reshape gives an empty set of points its number of columns.
        points = np.array([to_minimised(objectives, member.objectives) for member in chosen]).reshape(
            len(chosen), len(objectives)
        )
        mask = non_dominated(points)
        members = [member for member, is_member in zip(chosen, mask, strict=True) if is_member]
        # Number and rung break ties, so that the order does not depend on which trial ended first.
        members.sort(
            key=lambda member: (
                to_minimised(objectives, member.objectives),
                member.record.number,
                member.rung,
            )
        )
        return Front(objectives, tuple(members), hypervolume(points[mask], self.criteria.reference))


def candidates(record: TrialRecord, criteria: Criteria) -> list[FrontMember]:
    """Returns the rungs of a finished or stopped trial that may be on the front.

    A candidate has finite objectives on both parts and satisfies all limits. When only the last rung counts,
    a stopped trial has no candidate.
    """
    if record.status not in ("finished", "stopped"):
        return []
    last = len(record.rungs)
    # With `search.select: last` only the end of the schedule counts, which a stopped trial never reached.
    rungs = (
        range(1, last + 1)
        if criteria.every_rung
        else ([last] if last and record.status == "finished" else [])
    )
    found = []
    for rung in rungs:
        metrics = record.rungs[rung - 1]
        test = objective_values(metrics, criteria.objectives, "test")
        validation = objective_values(metrics, criteria.objectives, "validation")
        if test is not None and validation is not None and criteria.feasible(metrics):
            found.append(FrontMember(record, rung, test, validation))
    return found


def build_front(records: Iterable[TrialRecord], criteria: Criteria) -> Front:
    """Builds the front of the trials that ended with a result.

    A rung is a member when no rung of any trial dominates it on the validation part and, among the rungs that
    remain, none dominates it on the test part. Failed and running trials, and rungs without finite objectives
    on both parts, are left out.

    Args:
        records: All trials of the sweep, in any order.
        criteria: Objectives and limits of the sweep.

    Returns:
        The front; members have their test and validation values in the metrics' own signs.
    """
    front = GrowingFront(criteria)
    for record in records:
        front.add(record)
    return front.reported()


def hypervolume_history(records: Sequence[TrialRecord], criteria: Criteria) -> list[float]:
    """Computes the hypervolume of the reported front after each trial with a result.

    The last entry is the hypervolume of `build_front`. The curve can fall a little: it measures the test
    part, where a trial that wins on the validation part may be worse than the trial that it replaces.

    Args:
        records: All trials of the sweep.
        criteria: Objectives and limits of the sweep.

    Returns:
        One value per finished or stopped trial, in the order in which the trials ended.
    """
    front = GrowingFront(criteria)
    volumes = []
    ended = [record for record in records if record.status in ("finished", "stopped")]
    # The number breaks ties of the clock, so that the curve is the same at every reading.
    for record in sorted(ended, key=lambda record: (record.finished_at or 0.0, record.number)):
        front.add(record)
        volumes.append(front.reported().hypervolume)
    return volumes


def front_json(
    sweep: SweepSettings, records: Sequence[TrialRecord], baselines: Mapping[str, Mapping[str, float] | None]
) -> dict[str, Any]:
    """Builds the front as `lethe front --json` prints it.

    Args:
        sweep: Settings with objectives filled in.
        records: All trials of the sweep.
        baselines: Metrics of the `original` and the `retrained` model, with keys such as `test/utility`.

    Returns:
        Plain data for JSON. Objective values are those of the test part, in the metrics' own signs; a
        baseline that lacks one of them is null.
    """
    counts = Counter(record.status for record in records)
    return front_as_json(sweep.name, build_front(records, criteria_of(sweep)), counts, baselines)


def front_as_json(
    sweep_name: str,
    front: Front,
    counts: Mapping[Status, int],
    baselines: Mapping[str, Mapping[str, float] | None],
) -> dict[str, Any]:
    """Converts a front that was already built into the data of `front_json`.

    Args:
        sweep_name: Name of the sweep.
        front: The front.
        counts: Number of trials by status.
        baselines: Metrics of the baseline models, as for `front_json`.
    """
    objectives = front.objectives
    return {
        "sweep": sweep_name,
        "objectives": [
            {"name": objective.name, "direction": objective.direction} for objective in objectives
        ],
        "reference_point": {objective.name: objective.reference for objective in objectives},
        "hypervolume": front.hypervolume,
        "trials": sum(counts.values()),
        "failed": counts.get("failed", 0),
        "stopped": counts.get("stopped", 0),
        "front": [
            {
                "name": member.name,
                "trial_id": member.record.trial_id,
                "rung": member.rung,
                "objectives": dict(member.objectives),
                "params": dict(member.record.params),
                "mlflow_run_id": member.record.mlflow_run_id,
            }
            for member in front.members
        ],
        "baselines": {
            name: objective_values(baselines.get(name) or {}, objectives, "test") for name in BASELINES
        },
    }


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    # Equal points do not dominate each other, as in `dominance.non_dominated`.
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)
