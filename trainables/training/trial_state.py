"""How far a trial is: all that its further way depends on, beside what the engine holds."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter

from trainables.generation.sequence_beliefs import Beliefs


@dataclass(frozen=True)
class RungResult:
    """What a rung has left."""

    rung: int
    """From 1."""
    event: dict[str, Any]
    """As it was reported."""
    test: dict[str, float] | None = None
    """Metrics of the test part, where they were measured after the verdict."""
    kept: bool = False
    """Whether its weights were written."""

    @property
    def metrics(self) -> dict[str, float]:
        """Everything that was measured."""
        return self.event["metrics"] | (self.test or {})


@dataclass
class TrialState:
    """Equal on every rank."""

    step: int = 0
    """Optimizer steps that are done."""
    beliefs: Beliefs | None = None
    """Those of the current refresh: they were sampled by weights that are gone."""
    rungs: list[RungResult] = field(default_factory=list)
    """Those that were passed, in order."""
    retain_weight: float | None = None
    """Where a dual variable moves it."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time in steps, beliefs and evaluation, as far as it was measured."""

    def to_json(self) -> dict[str, Any]:
        """For `json.dumps`, which writes floats so that they are read back bit for bit."""
        return _PROGRESS.dump_python(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "TrialState":
        """The inverse of `to_json`, also after a way through JSON.

        Raises:
            ValueError: It is something else.
        """
        return _PROGRESS.validate_python(value)


_PROGRESS = TypeAdapter(TrialState)


PHASES = ("setup", "beliefs", "steps", "evaluation", "verdicts", "weights")
"""Where the time of a trial goes: a reset, sampling, steps, measuring, waiting for the driver, writing
weights; and `checkpoints`."""


@dataclass(frozen=True)
class TrialResult:
    """What a trial leaves.

    Attributes:
        metrics: Last rung's metrics; keys such as `validation/utility`, `test/utility`, `train/loss`.
        seconds: Time by phase: see `PHASES`.
        stopped: Why it ended before its last rung; None when it did not.
    """

    metrics: Mapping[str, float]
    seconds: Mapping[str, float]
    stopped: str | None = None


@dataclass(frozen=True)
class StepResult:
    """One optimizer step: the loss, its parts, the gradient norm before clipping and the share of guarded
    belief rows."""

    loss: float
    gradient_norm: float
    guarded_frac: float
    retain_loss: float
    """Mean per answer token of the retain partners (on activations, per response); 0 where nothing is
    retained."""
    retain_weight: float | None = None
    """The dual variable, where there is one."""

    @property
    def metrics(self) -> dict[str, float]:
        """As they are reported at a rung."""
        return {f"train/{name}": value for name, value in asdict(self).items() if value is not None}


class Clock:
    """Adds up where the time goes since `began`, beside what was measured `before`."""

    def __init__(self, before: Mapping[str, float], began: float) -> None:
        self.seconds: dict[str, float] = {**dict.fromkeys(PHASES, 0.0), **before}
        self._last = began

    def lap(self, name: str) -> None:
        """Count the time since the last lap under `name`."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now
