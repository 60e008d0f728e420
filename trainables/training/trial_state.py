"""How far a trial is: all that its further way depends on, beside what the engine holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
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
class Progress:
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
    def from_json(cls, value: Mapping[str, Any]) -> "Progress":
        """The inverse of `to_json`, also after a way through JSON.

        Raises:
            ValueError: It is something else.
        """
        return _PROGRESS.validate_python(value)


_PROGRESS = TypeAdapter(Progress)
