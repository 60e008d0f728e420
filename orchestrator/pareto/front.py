"""The Pareto front of a sweep over all trials and rungs: chosen on the validation part, reported on the test
part.

A sweep that chose and reported on the same items would overfit its yardstick: the best of many noisy numbers
looks better than it is. Every rung is a candidate, because the best moment to stop unlearning is often not
the last.
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
"""A trial's name and a rung, from 1."""


def rung_name(record: TrialRecord, rung: int) -> str:
    """`t0007` for a trial's last rung, `t0007@2` for an earlier one."""
    return record.trial_id if rung == len(record.rungs) else f"{record.trial_id}@{rung}"


@dataclass(frozen=True)
class FrontMember:
    """A trial at one of its rungs, on the front."""

    record: TrialRecord
    rung: int
    """From 1."""
    objectives: Mapping[str, float]
    """Objective name -> value on the test part: what is reported."""
    validation: Mapping[str, float]
    """Objective name -> value on the validation part: what the search saw."""

    @property
    def key(self) -> Key:
        """Trial and rung."""
        return self.record.trial_id, self.rung

    @property
    def name(self) -> str:
        """`t0007` at its end, `t0007@2` at an earlier rung."""
        return rung_name(self.record, self.rung)


@dataclass(frozen=True)
class Front:
    """The front of a sweep and the volume under it."""

    objectives: tuple[Objective, ...]
    members: tuple[FrontMember, ...]
    """From best to worst in the first objective."""
    hypervolume: float
    """Of the members' test values, against the objectives' reference point."""

    @property
    def keys(self) -> frozenset[Key]:
        """Trials and rungs of the members."""
        return frozenset(member.key for member in self.members)

    @property
    def trial_ids(self) -> frozenset[str]:
        """Names of the trials with a member."""
        return frozenset(member.record.trial_id for member in self.members)


class GrowingFront:
    """The front while trials end: each adds its rungs, and nothing that came before is looked at again.

    Args:
        criteria: What is better.
    """

    def __init__(self, criteria: Criteria) -> None:
        self.criteria = criteria
        self._chosen: NonDominated[FrontMember] = NonDominated(criteria.reference)

    def add(self, record: TrialRecord) -> None:
        """Take the rungs of a trial that has ended with a result; others have no candidates."""
        for member in candidates(record, self.criteria):
            self._chosen.add(to_minimised(self.criteria.objectives, member.validation), member)

    def would_join(self, record: TrialRecord, rung: int) -> bool:
        """Whether a rung that was just measured on the validation part may end up on the front, if its trial
        ends well.

        What is refused here is dominated for good, so nobody needs its weights or its test part.

        Args:
            record: A running trial with its rungs up to this one.
            rung: From 1.
        """
        metrics = record.rungs[rung - 1]
        point = self.criteria.point(metrics)
        if point is None or not self.criteria.feasible(metrics):
            return False
        # Where the last rung alone counts, no earlier one can drive it out.
        before = record.rungs[: rung - 1] if self.criteria.every_rung else []
        earlier = [self.criteria.point(other) for other in before if self.criteria.feasible(other)]
        dominated = any(other is not None and _dominates(other, point) for other in earlier)
        return not dominated and self._chosen.would_join(point)

    def gain(self, metrics: Mapping[str, float]) -> float:
        """Hypervolume on the validation part that a measurement would add."""
        point = self.criteria.point(metrics)
        return 0.0 if point is None or not self.criteria.feasible(metrics) else self._chosen.gain(point)

    @property
    def validation_hypervolume(self) -> float:
        """Hypervolume of what was chosen, on the validation part."""
        return self._chosen.hypervolume

    @property
    def chosen(self) -> frozenset[Key]:
        """Trials and rungs that none dominates on the validation part: whoever is or may still become a
        member."""
        return frozenset(member.key for member in self._chosen.items)

    def reported(self) -> Front:
        """The front as people see it: of what was chosen on the validation part, what none dominates on the
        test part."""
        chosen, objectives = list(self._chosen.items), self.criteria.objectives
        points = np.array([to_minimised(objectives, member.objectives) for member in chosen]).reshape(
            len(chosen), len(objectives)
        )
        mask = non_dominated(points)
        members = [member for member, is_member in zip(chosen, mask, strict=True) if is_member]
        members.sort(
            key=lambda member: (
                to_minimised(objectives, member.objectives),
                member.record.number,
                member.rung,
            )
        )
        return Front(objectives, tuple(members), hypervolume(points[mask], self.criteria.reference))


def candidates(record: TrialRecord, criteria: Criteria) -> list[FrontMember]:
    """The rungs of a finished or stopped trial that have finite objectives on both parts and keep to all
    limits."""
    if record.status not in ("finished", "stopped"):
        return []
    last = len(record.rungs)
    # The schedule's own end: a trial that was stopped has none.
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
    """The front among the trials that ended with a result.

    A rung is a member when no rung of any trial dominates it on the validation part and, among those that
    pass, none dominates it on the test part. Failed and running trials, and rungs without finite objectives
    on both parts, are left out.

    Args:
        records: All trials of the sweep, in any order.
        criteria: What is better.

    Returns:
        Members with their test and validation values in the metrics' own signs.
    """
    front = GrowingFront(criteria)
    for record in records:
        front.add(record)
    return front.reported()


def hypervolume_history(records: Sequence[TrialRecord], criteria: Criteria) -> list[float]:
    """Hypervolume of the reported front after each trial with a result, in the order in which they ended.

    The last entry is the hypervolume of `build_front`. The curve can fall a little: a trial that wins on the
    validation part may be worse than the one it drives out on the test part, which is what the curve
    measures.

    Args:
        records: All trials of the sweep.
        criteria: What is better.

    Returns:
        One value per finished or stopped trial, starting with the first.
    """
    front = GrowingFront(criteria)
    volumes = []
    ended = [record for record in records if record.status in ("finished", "stopped")]
    for record in sorted(ended, key=lambda record: (record.finished_at or 0.0, record.number)):
        front.add(record)
        volumes.append(front.reported().hypervolume)
    return volumes


def front_json(
    sweep: SweepSettings, records: Sequence[TrialRecord], baselines: Mapping[str, Mapping[str, float] | None]
) -> dict[str, Any]:
    """The front as `lethe front --json` prints it.

    Args:
        sweep: Settings with objectives filled in.
        records: All trials of the sweep.
        baselines: Metrics of the `original` and the `retrained` model, with keys such as `test/utility`.

    Returns:
        Plain data for JSON; objective values are those of the test part in the metrics' own signs, and a
        baseline without them is null.
    """
    counts = Counter(record.status for record in records)
    return front_as_json(sweep.name, build_front(records, criteria_of(sweep)), counts, baselines)


def front_as_json(
    sweep_name: str,
    front: Front,
    counts: Mapping[Status, int],
    baselines: Mapping[str, Mapping[str, float] | None],
) -> dict[str, Any]:
    """`front_json` of a front that is known already.

    Args:
        sweep_name: Name of the sweep.
        front: The front.
        counts: Trials by status.
        baselines: As for `front_json`.
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
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)
