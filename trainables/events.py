"""Events, outcomes and decisions that pass between a job on a lane and the driver, as plain frozen values.

Torch is not imported here, because the driver reads these values too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter


class TrialFailedError(Exception):
    """A trial has no result because of its own settings. The lane that ran it stays usable."""


@dataclass(frozen=True)
class RungDecision:
    """The decision about a trial at one of its rungs, the same on all ranks."""

    go_on: bool = True
    """Whether the trial continues; without meaning at its last rung."""
    keep: bool = False
    """Whether the rung may be on the front: its test part is then measured and its weights are written."""
    reason: str = ""
    """Why the trial ends at this rung, in words for people."""


@dataclass(frozen=True)
class StepDone:
    """A job has finished one of its steps; the newest one is all that is kept."""

    event: Literal["progress"] = field(default="progress", kw_only=True)
    step: int
    """Number of finished steps."""
    steps: int
    """Number of steps of the whole job."""
    loss: float | None = None
    """Loss of the step; None for a job without a loss."""


@dataclass(frozen=True)
class RungReached:
    """A trial has been evaluated at a rung, and waits for a decision."""

    event: Literal["rung"] = field(default="rung", kw_only=True)
    rung: int
    """Number of the rung, from 1."""
    rungs: int
    """Number of rungs of the trial."""
    metrics: dict[str, float]
    """`validation/...` and `train/...`; at the last rung `test/...` too."""
    step: int | None = None
    """Number of finished steps; None where steps are not simulated."""


@dataclass(frozen=True)
class RungTested:
    """The test part of a rung that is kept has been measured."""

    event: Literal["test"] = field(default="test", kw_only=True)
    rung: int
    """Number of the rung, from 1."""
    metrics: dict[str, float]
    """`test/...`."""


@dataclass(frozen=True)
class LineLogged:
    """A line for the job's log."""

    event: Literal["log"] = field(default="log", kw_only=True)
    line: str


@dataclass(frozen=True)
class JobRestarted:
    """The job starts again, because its workers died or hung."""

    event: Literal["again"] = field(default="again", kw_only=True)
    line: str
    """Cause and number of the start, for the log and for people."""


Event = StepDone | RungReached | RungTested | LineLogged | JobRestarted
EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])
"""Converts events to plain dictionaries and back: in Tune's results and in checkpoints."""
Report = Callable[[Event], None]
"""Receives one event. Called on rank 0 only."""
Decide = Callable[[int, int], RungDecision]
"""Decides about a rung, given its number (from 1) and the number of rungs. Ranks: all."""


@dataclass(frozen=True)
class Finished:
    """The job has run to its end."""

    status: Literal["finished"] = field(default="finished", kw_only=True)
    result: Mapping[str, Any] = field(default_factory=dict)
    """What this kind of job returns: see `trainables.worker.job_runner.HANDLERS`."""


@dataclass(frozen=True)
class Stopped:
    """The trial was stopped at a rung before its last."""

    status: Literal["stopped"] = field(default="stopped", kw_only=True)
    reason: str
    result: Mapping[str, Any] = field(default_factory=dict)
    """As for a finished trial."""


@dataclass(frozen=True)
class Failed:
    """The job failed through its own fault, or has used up its retries."""

    status: Literal["failed"] = field(default="failed", kw_only=True)
    reason: str


@dataclass(frozen=True)
class Lost:
    """The job has no result through no fault of its own; a resumed sweep runs it again."""

    status: Literal["lost"] = field(default="lost", kw_only=True)
    reason: str


Outcome = Finished | Stopped | Failed | Lost
OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Annotated[Outcome, Field(discriminator="status")])
"""Converts outcomes to plain dictionaries and back, for Tune's results."""
