"""The state of a trial that its further steps depend on, except what the engine holds."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter

from trainables.events import RungReached
from trainables.generation.sequence_beliefs import Beliefs


@dataclass(frozen=True)
class RungResult:
    """The result of one rung."""

    rung: int
    """Number of the rung, from 1."""
    event: RungReached
    """The event that was reported, with the metrics."""
    test: dict[str, float] | None = None
    """Metrics of the test part if they were measured after the decision."""
    kept: bool = False
    """Whether the rung's weights were written."""

    @property
    def metrics(self) -> dict[str, float]:
        """All metrics of the rung, those of the test part included."""
        return self.event.metrics | (self.test or {})


@dataclass
class TrialState:
    """The part of a trial's state that is equal on every rank."""

    step: int = 0
    """Number of finished optimizer steps."""
    beliefs: Beliefs | None = None
    """Beliefs of the current refresh; they cannot be sampled again, since the weights have changed since."""
    rungs: list[RungResult] = field(default_factory=list)
    """Results of the rungs so far, in order."""
    retain_weight: float | None = None
    """The dual variable; None for methods without one."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by phase (see `PHASES`), up to this state."""

    def to_json(self) -> dict[str, Any]:
        """Convert the state to plain values for `json.dumps`."""
        # json writes floats in their shortest exact form, so they are read back bit for bit.
        plain: dict[str, Any] = _PROGRESS.dump_python(self)
        return plain

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "TrialState":
        """Make a state from the result of `to_json`, also after a round trip through JSON.

        Raises:
            ValueError: The value is not a state.
        """
        return _PROGRESS.validate_python(value)


_PROGRESS = TypeAdapter(TrialState)


PHASES = ("setup", "beliefs", "steps", "evaluation", "verdicts", "weights")
"""Phases of a trial: reset, belief sampling, steps, evaluation, waiting for decisions, writing weights.

Trials with checkpoints have the phase `checkpoints` too.
"""


@dataclass(frozen=True)
class TrialResult:
    """The result of a trial.

    Attributes:
        metrics: Metrics of the last rung; keys such as `validation/utility`, `test/utility`, `train/loss`.
        seconds: Seconds by phase; see `PHASES`.
        stopped: Reason why the trial ended before its last rung; None when it did not.
    """

    metrics: Mapping[str, float]
    seconds: Mapping[str, float]
    stopped: str | None = None


@dataclass(frozen=True)
class StepResult:
    """The results of one optimizer step."""

    loss: float
    """Total loss of the global batch."""
    gradient_norm: float
    """Global gradient norm before clipping."""
    guarded_frac: float
    """Share of the forget rows at which the guard shrank the token belief."""
    retain_loss: float
    """Mean retain loss per answer token (for activations, per response); 0 without a retain loss."""
    retain_weight: float | None = None
    """The dual variable; None for methods without one."""

    @property
    def metrics(self) -> dict[str, float]:
        """Values by metric name, as they are reported at a rung."""
        return {f"train/{name}": value for name, value in asdict(self).items() if value is not None}


class Clock:
    """Sums the seconds of each phase since `began`, on top of the sums in `before`."""

    def __init__(self, before: Mapping[str, float], began: float) -> None:
        # Every phase is present from the start, so that all trials report the same keys.
        self.seconds: dict[str, float] = {**dict.fromkeys(PHASES, 0.0), **before}
        self._last = began

    def lap(self, name: str) -> None:
        """Add the time since the last lap to the phase `name`."""
        # A monotonic clock: the wall clock may be set back during a trial.
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now
