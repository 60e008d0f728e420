"""What a trial says to the driver and hears from it: plain values that cross the process border. No torch
here."""

from dataclasses import dataclass


class TrialFailedError(Exception):
    """The trial has no result, for a reason that its own settings explain. The lane is as good as before."""


@dataclass(frozen=True)
class RungDecision:
    """What a trial is told at a rung, equal on all ranks."""

    go_on: bool = True
    """Whether it trains on; at its last rung this says nothing."""
    keep: bool = False
    """Whether this rung may end up on the front: then its test part is measured and its weights are written.
    """
    reason: str = ""
    """Why it ends here, for people."""
