"""The learning rate, the rungs and the refreshes of beliefs as functions of the step alone."""

import math
from dataclasses import dataclass

from search_spaces.settings.trial_settings import TrialSettings
from trainables.data.batches import steps_per_epoch


@dataclass(frozen=True)
class TrialSchedule:
    """What a trial does when, in optimizer steps."""

    steps: int
    """Steps in all."""
    steps_per_epoch: int
    """Steps of one pass over the forget set."""
    refresh_every: int
    """Steps between two samplings of beliefs."""
    warmup: int
    """Steps of linear warm-up."""
    rungs: list[int]
    """Steps after which there is a rung."""


def schedule_of(trial: TrialSettings, forget_examples: int) -> TrialSchedule:
    """The course of a trial over a forget set of that size."""
    per_epoch = steps_per_epoch(forget_examples, trial.optimizer.global_batch)
    steps = trial.steps or trial.epochs * per_epoch
    refresh_epochs = trial.sequence_belief.refresh_epochs
    return TrialSchedule(
        steps=steps,
        steps_per_epoch=per_epoch,
        refresh_every=max(1, round(refresh_epochs * per_epoch)) if refresh_epochs else steps,
        warmup=round(trial.optimizer.warmup_epochs * per_epoch),
        rungs=rung_steps(steps, trial.rungs),
    )


def learning_rate(
    step: int, steps: int, peak: float, warmup_steps: int, schedule: str, floor: float = 0.0
) -> float:
    """Learning rate of a step.

    Args:
        step: From 0.
        steps: Steps in all.
        peak: Rate after warm-up.
        warmup_steps: Steps of linear warm-up; the first step already moves.
        schedule: `linear`, `cosine` or `constant`.
        floor: Share of the peak that is left at the end.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    share = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[schedule]
    return peak * (floor + (1 - floor) * share)


def rung_steps(steps: int, rungs: int) -> list[int]:
    """Numbers of finished steps after which a trial is evaluated: evenly spread, the last at the end, none
    twice.

    >>> rung_steps(10, 4)
    [3, 5, 8, 10]
    """
    return sorted({max(1, math.floor(steps * rung / rungs + 0.5)) for rung in range(1, rungs + 1)})
