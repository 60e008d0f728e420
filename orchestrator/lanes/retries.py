"""How often a job is started again after its workers died, hung, or lost a node."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Retries:
    """Limits on the starts of one job."""

    attempts: int = 2
    """Starts that may end because the workers died or hung."""
    preemptions: int = 20
    """Starts that may end because a node of the workers went away; these count as no attempt."""


@dataclass(frozen=True)
class Interruption:
    """A start of a job that ended without an outcome."""

    starts: int
    """Starts of the job so far, this one included."""
    preemptions: int
    """How many of them a node ended that went away, this one included."""
    preempted: bool
    """Whether a node that went away ended this one."""
    quiet_s: float | None = None
    """Seconds without a sign of life, if the workers were killed because they hung."""

    @property
    def cause(self) -> str:
        """What ended this start, in words for people."""
        if self.preempted:
            return "a node of its workers went away"
        if self.quiet_s is not None:
            return f"its workers hung (no sign of life for {self.quiet_s:.0f} s) and were killed"
        return "its workers died"


def may_retry(interruption: Interruption, retries: Retries) -> bool:
    """Return whether the job is started again."""
    attempts = interruption.starts - interruption.preemptions
    return attempts < retries.attempts and interruption.preemptions <= retries.preemptions


def describe_interruption(interruption: Interruption, retries: Retries) -> str:
    """Return the cause with what follows from it: another start, or the limits that are used up."""
    if may_retry(interruption, retries):
        return f"{interruption.cause}; it starts again (start {interruption.starts + 1})"
    attempts = interruption.starts - interruption.preemptions
    return (
        f"{interruption.cause}; used up: {attempts} of {retries.attempts} attempts,"
        f" {interruption.preemptions} of {retries.preemptions} preemptions"
    )
