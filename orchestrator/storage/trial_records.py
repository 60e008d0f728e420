"""What the rest of the orchestrator knows about a trial, without knowing Optuna or Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["running", "finished", "stopped", "failed"]
"""`stopped` trials ended at a rung before their last, with results up to there; `failed` ones have none."""


def trial_id(number: int) -> str:
    """The name of a trial in folders, tables and MLflow: `t0007` for number 7."""
    return f"t{number:04d}"


BASELINES = ("original", "prompted", "retrained", "retrained_twin")
"""Models beside the front: as it was, with an instruction to forget in front of every question, the one that
never knew, and the same under another seed."""
OPTIONAL_BASELINES = ("prompted", "retrained_twin")
"""Those that a sweep may well do without."""


@dataclass(frozen=True)
class ProposedTrial:
    """A trial that is to run now."""

    number: int
    """Position in the study, from 0."""
    params: Mapping[str, Any]
    """Space keys that are active in this trial, and their values."""

    @property
    def trial_id(self) -> str:
        """Name: `trial_id(number)`."""
        return trial_id(self.number)


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the study holds it: a snapshot that later changes of the study leave alone."""

    trial_id: str
    """Name: `trial_id(number)`."""
    number: int
    """Position in the study, from 0."""
    status: Status
    """`failed` trials have a `reason` and never reach the front; `stopped` ones may."""
    params: Mapping[str, Any]
    """Space keys that were active in this trial, and their values."""
    metrics: Mapping[str, float]
    """Metrics of the last rung, with keys such as `validation/forget_true_mass` and `test/utility`; empty
    before the first rung."""
    rungs: Sequence[Mapping[str, float]]
    """Metrics of every rung reported so far, in order; keys of the test part only where it was measured."""
    reason: str | None = None
    """Why the trial failed, or was stopped."""
    duration_s: float | None = None
    """Wall time from hand-out to the end in seconds; of a repeated trial, the last attempt's. None while it
    runs."""
    mlflow_run_id: str | None = None
    """Child run in MLflow, where there is one."""
    started_at: float | None = None
    """Unix time of the (last) hand-out in seconds."""
    finished_at: float | None = None
    """Unix time of the end in seconds; None while it runs."""
    spent_s: float = 0.0
    """Wall time in seconds of all its attempts that have ended, those that a dead driver cut off up to their
    last rung."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.status != "running"
