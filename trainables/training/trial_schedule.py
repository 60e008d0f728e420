"""The schedule of a trial: learning rate, rungs and refreshes of beliefs as functions of the step."""

import math
from dataclasses import dataclass

from search_spaces.settings.trial_settings import TrialSettings
from trainables.data.batches import steps_per_epoch


@dataclass(frozen=True)
class TrialSchedule:
    """The schedule of a trial in optimizer steps."""

    steps: int
    """Total number of steps."""
    steps_per_epoch: int
    """Steps of one pass over the forget set."""
    refresh_every: int
    """Steps between two samplings of beliefs."""
    warmup: int
    """Steps of linear warm-up."""
    rungs: list[int]
    """Numbers of finished steps after which a rung is evaluated."""


def schedule_of(trial: TrialSettings, forget_examples: int) -> TrialSchedule:
    """Return the schedule of a trial over a forget set of `forget_examples` examples."""
    per_epoch = steps_per_epoch(forget_examples, trial.optimizer.global_batch)
    # A number of steps in the settings replaces the number of epochs.
    steps = trial.steps or trial.epochs * per_epoch
    refresh_epochs = trial.sequence_belief.refresh_epochs
    return TrialSchedule(
        steps=steps,
        steps_per_epoch=per_epoch,
        # Off-policy beliefs (no refresh) are sampled once, at step 0.
        refresh_every=max(1, round(refresh_epochs * per_epoch)) if refresh_epochs else steps,
        warmup=round(trial.optimizer.warmup_epochs * per_epoch),
        rungs=rung_steps(steps, trial.rungs),
    )


def learning_rate(
    step: int, steps: int, peak: float, warmup_steps: int, schedule: str, floor: float = 0.0
) -> float:
    """Return the learning rate of a step.

    Args:
        step: Number of the step, from 0.
        steps: Total number of steps.
        peak: Learning rate after warm-up.
        warmup_steps: Steps of linear warm-up; the first step already has a rate above 0.
        schedule: `linear`, `cosine` or `constant`.
        floor: Share of the peak at the end of the schedule.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    # A warm-up over the whole trial leaves no decay; the maximum avoids a division by zero.
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    share = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[schedule]
    return peak * (floor + (1 - floor) * share)


def rung_steps(steps: int, rungs: int) -> list[int]:
    """Return the numbers of finished steps with a rung: evenly spread, distinct, the last at the end.

    >>> rung_steps(10, 4)
    [3, 5, 8, 10]
    """
    # Rounded half up, not half to even as `round` would, so that rungs stay evenly spread.
    return sorted({max(1, math.floor(steps * rung / rungs + 0.5)) for rung in range(1, rungs + 1)})
