"""`lethe reproduce`: runs one trial again as it was, beside the study, and says whether it gives the same
numbers bit for bit."""

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
"""Times, which MLflow keeps with the metrics."""

PROVENANCE_COMPARED = ("version.", "git.")


@dataclass
class Outcome:
    """What a trial gave when it ran again."""

    rungs: dict[int, dict[str, float]] = field(default_factory=dict)
    """Metrics by rung, from 1."""
    failed: str | None = None
    """Why it failed; None when it did not."""


@dataclass(frozen=True)
class Difference:
    """A metric that is not the same."""

    rung: int
    metric: str
    before: float
    now: float | None
    """None when it was not measured."""

    @property
    def size(self) -> float:
        """Absolute difference; infinite where the metric is missing or not a number."""
        size = float("inf") if self.now is None else abs(self.before - self.now)
        return size if size == size else float("inf")  # NaN is the only value that differs from itself

    def text(self) -> str:
        """For people."""
        if self.now is None:
            return f"{self.metric} at rung {self.rung} was {self.before!r} and is missing"
        return f"{self.size:.3g} in {self.metric} at rung {self.rung} (was {self.before!r}, is {self.now!r})"


@dataclass(frozen=True)
class Verification:
    """A trial beside its repetition."""

    compared: int
    """Metrics, counted at every rung."""
    rungs: int
    differences: tuple[Difference, ...]
    """Largest first."""
    other: tuple[str, ...] = ()
    """What differs beside the metrics: rungs reached, the reason of a failure."""

    @property
    def identical(self) -> bool:
        """Whether everything is the same bit for bit."""
        return not self.differences and not self.other


@dataclass(frozen=True)
class ReproductionTask(JobTask):
    """A trial that runs again on a lane. At its rungs the decisions are those of then, so that it takes the
    same path.

    Attributes:
        record: The trial; one that failed fails again, or does not.
        sweep: Settings of its sweep.
        plan: The sweep's baselines.
        weights: Folder for the weights of rungs that are kept; none are written when None.
        kept_rung: With `weights`, a rung to keep although the trial may not have kept it then.
        outcome: What it gives.
    """

    record: TrialRecord
    sweep: SweepSettings
    plan: Plan
    weights: Path | None = None
    kept_rung: int | None = None
    outcome: Outcome = field(default_factory=Outcome)

    @property
    def name(self) -> str:
        """As people see it: `reproducing t0007`."""
        return f"reproducing {self.record.trial_id}"

    def job(self) -> TrialJob:
        """The trial's job without its checkpoints."""
        weights = None if self.weights is None else str(self.weights)
        return trial_job(self.sweep, self.plan, self.record.trial_id, self.record.params, weights=weights)

    def decisions(self) -> dict[int, RungDecision]:
        """Those of then."""
        rungs = apply(self.sweep.trial, self.record.params).rungs
        return recorded_decisions(self.record, rungs, self.kept_rung)

    def take(self, event: Event) -> None:
        """Collect the metrics of the trial's rungs."""
        if isinstance(event, RungReached | RungTested):
            self.outcome.rungs.setdefault(event.rung, {}).update(event.metrics)

    def keep(self, result: Mapping[str, Any]) -> None:
        """Its rungs have given all that is compared."""

    def fail(self, reason: str) -> None:
        """A failure is compared too."""
        self.outcome.failed = reason


def compare(record: TrialRecord, outcome: Outcome) -> Verification:
    """Set a trial beside its repetition, every metric that was measured then."""
    compared, differences, other = 0, [], []
    for rung, metrics in enumerate(record.rungs, start=1):
        now = outcome.rungs.get(rung, {})
        for metric, before in metrics.items():
            if metric in NOT_COMPARED:
                continue
            compared += 1
            if metric not in now or not _same(before, now[metric]):
                differences.append(Difference(rung, metric, before, now.get(metric)))
    if len(outcome.rungs) > len(record.rungs):
        other.append(f"it reached rung {len(outcome.rungs)}, and rung {len(record.rungs)} then")
    failed_then = record.reason if record.status == "failed" else None
    if failed_then != outcome.failed:
        other.append(f"{_failure(outcome.failed)}; then {_failure(failed_then)}")
    differences.sort(key=lambda difference: -difference.size)
    return Verification(compared, len(record.rungs), tuple(differences), tuple(other))


def compare_origins(before: Mapping[str, str], now: Mapping[str, str], workers: tuple[int, int]) -> list[str]:
    """What is not as it was: versions, git state, data, worker count.

    Args:
        before: Tags of the sweep's parent run; empty when unknown.
        now: The same of this machine, with `lethe.data_digest`.
        workers: ZeRO-3 ranks then and now.

    Returns:
        One line for each.
    """
    names = [key for key in now if key.startswith(PROVENANCE_COMPARED) or key == "lethe.data_digest"]
    lines = [
        f"{key}: {before[key]} -> {now[key]}" for key in names if key in before and before[key] != now[key]
    ]
    return lines + ([f"workers: {workers[0]} -> {workers[1]}"] if workers[0] != workers[1] else [])


def describe(record: TrialRecord, found: Verification, origins: Sequence[str]) -> list[str]:
    """The result for people: whether it is identical, what differs most, and what else is not as it was."""
    count = f"{found.compared} metrics at {found.rungs} rung{'s' * (found.rungs != 1)}"
    if found.identical:
        lines = [f"{record.trial_id} is identical: {count}, bit for bit"]
    else:
        lines = [f"{record.trial_id} is NOT identical: {len(found.differences)} of {count} differ"]
        lines += [f"  largest difference: {difference.text()}" for difference in found.differences[:1]]
        lines += [f"  {line}" for line in found.other]
    lines += [f"  not as it was: {line}" for line in origins]
    return lines


def recorded_decisions(record: TrialRecord, rungs: int, kept_rung: int | None) -> dict[int, RungDecision]:
    """By rung: go on as then, and measure the test part where it was measured then."""
    last = rungs if record.status == "failed" else len(record.rungs)
    return {
        rung: RungDecision(
            go_on=rung < last,
            keep=rung == kept_rung or _was_tested(record, rung),
            reason="it was stopped here then",
        )
        for rung in range(1, rungs + 1)
    }


def _was_tested(record: TrialRecord, rung: int) -> bool:
    return rung <= len(record.rungs) and any(key.startswith("test/") for key in record.rungs[rung - 1])


def _same(before: float, now: float) -> bool:
    # MLflow's databases hold the largest float in place of infinity.
    clipped = [max(-sys.float_info.max, min(sys.float_info.max, value)) for value in (before, now)]
    return clipped[0] == clipped[1] or (before != before and now != now)


def _failure(reason: str | None) -> str:
    return "it did not fail" if reason is None else f"it failed ({reason})"
