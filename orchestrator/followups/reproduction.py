"""`lethe reproduce`: runs one trial again, outside the study, and compares all its metrics bit for bit."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.lanes.job_batch import JobTask
from orchestrator.storage.baselines import Plan, trial_job
from orchestrator.storage.trial_records import TrialRecord
from search_spaces.settings.space import apply
from search_spaces.settings.sweep_settings import SweepSettings
from trainables.events import Event, RungDecision, RungReached, RungTested
from trainables.jobs import TrialJob

NOT_COMPARED = {"worker_seconds", "duration_s"}
"""Times, which MLflow stores among the metrics."""

PROVENANCE_COMPARED = ("version.", "git.")
"""Prefixes of the provenance tags that are compared."""


@dataclass
class Outcome:
    """Metrics of a trial that ran again."""

    rungs: dict[int, dict[str, float]] = field(default_factory=dict)
    """Metrics by rung, from 1."""
    failed: str | None = None
    """Why the trial failed; None if it did not."""


@dataclass(frozen=True)
class Difference:
    """A metric whose two values differ."""

    rung: int
    """The rung, counted from 1."""
    metric: str
    before: float
    """The recorded value."""
    now: float | None
    """The value of the repetition; None if it was not measured."""

    @property
    def size(self) -> float:
        """The absolute difference; infinite if a value is missing or not a number."""
        size = math.inf if self.now is None else abs(self.before - self.now)
        return math.inf if math.isnan(size) else size

    def text(self) -> str:
        """Returns the difference as part of a sentence."""
        if self.now is None:
            return f"{self.metric} at rung {self.rung} was {self.before!r} and is missing"
        return f"{self.size:.3g} in {self.metric} at rung {self.rung} (was {self.before!r}, is {self.now!r})"


@dataclass(frozen=True)
class Verification:
    """Comparison of a trial with its repetition."""

    compared: int
    """Number of values that were compared, over all rungs."""
    rungs: int
    """Number of rungs in the record."""
    differences: tuple[Difference, ...]
    """Metrics that differ, the largest difference first."""
    other: tuple[str, ...] = ()
    """Sentences on other differences: the rungs reached, the reason of a failure."""

    @property
    def identical(self) -> bool:
        """Whether everything is the same bit for bit."""
        return not self.differences and not self.other


@dataclass(frozen=True)
class ReproductionTask(JobTask):
    """A trial that runs again on a lane, with the recorded decision at each rung.

    Attributes:
        record: The trial. A failed trial can be run again as well: it should fail in the same way.
        sweep: Settings of its sweep.
        plan: The sweep's baselines.
        weights: Folder for the weights of the rungs that are kept; None: no weights are written.
        kept_rung: With `weights`, a further rung to keep, which the trial itself may not have kept.
        outcome: The result, filled while the trial runs.
    """

    record: TrialRecord
    sweep: SweepSettings
    plan: Plan
    weights: Path | None = None
    kept_rung: int | None = None
    outcome: Outcome = field(default_factory=Outcome)

    @property
    def name(self) -> str:
        """The task's name in messages: `reproducing t0007`."""
        return f"reproducing {self.record.trial_id}"

    def job(self) -> TrialJob:
        """Returns the trial's job, without checkpoints."""
        weights = None if self.weights is None else str(self.weights)
        return trial_job(self.sweep, self.plan, self.record.trial_id, self.record.params, weights=weights)

    def decisions(self) -> dict[int, RungDecision]:
        """Returns the recorded decisions, with which the trial takes the same path."""
        rungs = apply(self.sweep.trial, self.record.params).rungs
        return recorded_decisions(self.record, rungs, self.kept_rung)

    def take(self, event: Event) -> None:
        """Collects the metrics of a rung, whose validation and test part arrive in separate events."""
        if isinstance(event, RungReached | RungTested):
            self.outcome.rungs.setdefault(event.rung, {}).update(event.metrics)

    def keep(self, result: Mapping[str, Any]) -> None:
        """Does nothing: the events of the rungs hold everything that is compared."""

    def fail(self, reason: str) -> None:
        """Notes the failure, which is compared with the record's."""
        self.outcome.failed = reason


def compare(record: TrialRecord, outcome: Outcome) -> Verification:
    """Compares a trial with its repetition in every metric that the record holds."""
    compared, differences, other = 0, [], []
    for rung, metrics in enumerate(record.rungs, start=1):
        now = outcome.rungs.get(rung, {})
        for metric, before in metrics.items():
            if metric in NOT_COMPARED:
                continue
            compared += 1
            if metric not in now or not _same(before, now[metric]):
                differences.append(Difference(rung, metric, before, now.get(metric)))
    # Fewer rungs need no sentence: all their metrics are missing, which is in `differences`.
    if len(outcome.rungs) > len(record.rungs):
        other.append(f"it reached rung {len(outcome.rungs)}, but rung {len(record.rungs)} in the sweep")
    # The record of a stopped trial has a reason as well, which is no failure.
    recorded_failure = record.reason if record.status == "failed" else None
    if recorded_failure != outcome.failed:
        other.append(f"{_failure(outcome.failed)}; in the sweep {_failure(recorded_failure)}")
    differences.sort(key=lambda difference: -difference.size)
    return Verification(compared, len(record.rungs), tuple(differences), tuple(other))


def compare_origins(before: Mapping[str, str], now: Mapping[str, str], workers: tuple[int, int]) -> list[str]:
    """Compares the versions, git state, data and number of workers of a sweep with those of its repetition.

    Args:
        before: Tags of the sweep's parent run in MLflow; empty if unknown.
        now: Tags of this machine, with `lethe.data_digest`.
        workers: Numbers of ZeRO-3 ranks: the sweep's and the repetition's.

    Returns:
        One line for each difference, such as `version.torch: 2.12 -> 2.13`.
    """
    names = [key for key in now if key.startswith(PROVENANCE_COMPARED) or key == "lethe.data_digest"]
    changed = [key for key in names if key in before and before[key] != now[key]]
    lines = [f"{key}: {before[key]} -> {now[key]}" for key in changed]
    if workers[0] != workers[1]:
        lines.append(f"workers: {workers[0]} -> {workers[1]}")
    return lines


def describe(record: TrialRecord, found: Verification, origins: Sequence[str]) -> list[str]:
    """Returns the lines that are printed: whether the trial is identical, and everything that differs.

    Args:
        record: The trial.
        found: Its comparison with the repetition.
        origins: Differences of versions, data and workers, from `compare_origins`.
    """
    count = f"{found.compared} metrics at {found.rungs} rung{'s' * (found.rungs != 1)}"
    if found.identical:
        lines = [f"{record.trial_id} is identical: {count}, bit for bit"]
    else:
        lines = [f"{record.trial_id} is NOT identical: {len(found.differences)} of {count} differ"]
        lines += [f"  largest difference: {difference.text()}" for difference in found.differences[:1]]
        lines += [f"  {line}" for line in found.other]
    lines += [f"  differs from the sweep: {line}" for line in origins]
    return lines


def recorded_decisions(record: TrialRecord, rungs: int, kept_rung: int | None) -> dict[int, RungDecision]:
    """Returns the decisions by which a trial's repetition takes the same path, by rung from 1.

    The trial goes on as long as the recorded one did. It measures the test part where the recorded one did,
    which is where its rung was kept.

    Args:
        record: The trial.
        rungs: Number of rungs in the trial's schedule.
        kept_rung: A further rung to keep.
    """
    # A failed trial was not stopped: its repetition must be able to fail at the same step.
    last = rungs if record.status == "failed" else len(record.rungs)
    return {
        rung: RungDecision(
            go_on=rung < last,
            keep=rung == kept_rung or _was_tested(record, rung),
            reason="the sweep stopped it at this rung",
        )
        for rung in range(1, rungs + 1)
    }


def _was_tested(record: TrialRecord, rung: int) -> bool:
    return rung <= len(record.rungs) and any(key.startswith("test/") for key in record.rungs[rung - 1])


def _same(before: float, now: float) -> bool:
    if math.isnan(before) or math.isnan(now):
        return math.isnan(before) and math.isnan(now)
    # MLflow's databases store the largest float in place of infinity.
    clipped = [max(-sys.float_info.max, min(sys.float_info.max, value)) for value in (before, now)]
    return clipped[0] == clipped[1]


def _failure(reason: str | None) -> str:
    return "it did not fail" if reason is None else f"it failed ({reason})"
