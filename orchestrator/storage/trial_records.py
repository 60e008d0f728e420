"""Records of trials as plain data, for all code that must not depend on Optuna or Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["running", "finished", "stopped", "failed"]
"""A `stopped` trial ended at a rung before its last and keeps the results up to it; a `failed` one has no
result."""


def trial_id(number: int) -> str:
    """Returns the name of a trial in folders, tables and MLflow: `t0007` for number 7."""
    # Four digits, so that names of up to 10,000 trials sort in the order of the study.
    return f"t{number:04d}"


BASELINES = ("original", "prompted", "retrained", "retrained_twin")
"""Models that are reported beside the front: the original model, the original with an instruction to forget
before every question, a model that was trained without the forget set, and the latter under another seed."""
OPTIONAL_BASELINES = ("prompted", "retrained_twin")
"""Baselines that reports leave out where a sweep has none, in place of an empty row."""


@dataclass(frozen=True)
class ProposedTrial:
    """A trial that the search has proposed and that is to run now."""

    number: int
    """Position in the study, from 0."""
    params: Mapping[str, Any]
    """Values of the space keys that are active in this trial."""

    @property
    def trial_id(self) -> str:
        """The trial's name: `t0007` for number 7."""
        return trial_id(self.number)


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the study holds it: a snapshot that later changes of the study do not alter."""

    trial_id: str
    """The trial's name: `t0007` for number 7."""
    number: int
    """Position in the study, from 0."""
    status: Status
    """A `failed` trial has a `reason` and never reaches the front; a `stopped` one may."""
    params: Mapping[str, Any]
    """Values of the space keys that were active in this trial."""
    metrics: Mapping[str, float]
    """Metrics of the last rung, with keys such as `validation/forget_true_mass` and `test/utility`; empty
    before the first rung."""
    rungs: Sequence[Mapping[str, float]]
    """Metrics of every rung reported so far, in order; the test part is there only where it was measured."""
    reason: str | None = None
    """Why the trial failed or was stopped."""
    duration_s: float | None = None
    """Wall time from the start to the end of the last attempt in seconds; None while the trial runs."""
    mlflow_run_id: str | None = None
    """The child run in MLflow, if there is one."""
    started_at: float | None = None
    """Unix time in seconds at which the last attempt started."""
    finished_at: float | None = None
    """Unix time in seconds at which the trial ended; None while it runs."""
    spent_s: float = 0.0
    """Wall time in seconds of all attempts that have ended. An attempt that died with its driver counts up to
    its last rung."""

    @property
    def ended(self) -> bool:
        """Whether the trial has ended, in whatever way."""
        return self.status != "running"
