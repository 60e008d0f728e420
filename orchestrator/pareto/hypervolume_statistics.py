"""Hypervolume of a sweep against what it spent, and how much of it hangs on a few lucky trials."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from orchestrator.pareto.dominance import hypervolume, non_dominated
from orchestrator.pareto.front import GrowingFront, candidates
from orchestrator.pareto.objectives import Criteria, to_minimised
from orchestrator.storage.trial_records import TrialRecord

RESAMPLES = 1000
"""Of the bootstrap."""

Curve = Sequence[tuple[float, float]]
"""Worker-seconds spent, and the hypervolume that was reached with them, after each trial that ended."""


@dataclass(frozen=True)
class Interval:
    """95 % of something; what, depends on where it comes from."""

    low: float
    high: float
    source: Literal["seeds", "trials"]
    """`seeds`: Student's t-interval of the mean hypervolume when the whole front is run again under new
    seeds. `trials`: percentiles of the hypervolume when the sweep's trials are drawn again with replacement.
    That tells how much hangs on a few good draws of the search; it does not know how much the same trials
    differ under another seed, and since a resample lacks a third of the trials it lies almost wholly below
    the sweep's own hypervolume."""


def hypervolume_curve(records: Sequence[TrialRecord], criteria: Criteria, workers: int) -> Curve:
    """Hypervolume of the reported front against the worker-time of the trials that had ended by then, in the
    order of their ends.

    Args:
        records: All trials of a sweep.
        criteria: What is better.
        workers: That each trial held.
    """
    front, spent_s, curve = GrowingFront(criteria), 0.0, []
    ended = [record for record in records if record.ended]
    for record in sorted(ended, key=lambda record: (record.finished_at or 0.0, record.number)):
        front.add(record)
        spent_s += record.spent_s * workers
        curve.append((spent_s, front.reported().hypervolume))
    return curve


def hypervolume_at(curve: Curve, worker_s: float) -> float:
    """What was reached with that much worker-time; 0 before the first trial has ended."""
    return next((volume for spent_s, volume in reversed(curve) if spent_s <= worker_s), 0.0)


def bootstrap_interval(
    records: Sequence[TrialRecord], criteria: Criteria, resamples: int = RESAMPLES
) -> Interval | None:
    """95 % percentile interval of the hypervolume over resamples of the trials that have ended. See
    `Interval.source`.

    Args:
        records: All trials of a sweep; failed ones are drawn too, and add nothing.
        criteria: What is better.
        resamples: How many.

    Returns:
        None with fewer than two ended trials. The same for the same records: the draws are seeded.
    """
    ended = [record for record in records if record.ended]
    if len(ended) < 2:
        return None
    rungs = [(place, member) for place, record in enumerate(ended) for member in candidates(record, criteria)]
    shape = (len(rungs), len(criteria.objectives))
    owners = np.array([place for place, _ in rungs], dtype=int)
    validation = np.array(
        [to_minimised(criteria.objectives, member.validation) for _, member in rungs]
    ).reshape(shape)
    test = np.array([to_minimised(criteria.objectives, member.objectives) for _, member in rungs]).reshape(
        shape
    )
    draw, volumes = np.random.default_rng(0), []
    for _ in range(resamples):
        # A trial that is drawn twice adds nothing the second time.
        drawn = np.zeros(len(ended), dtype=bool)
        drawn[draw.integers(0, len(ended), len(ended))] = True
        rows = drawn[owners]
        chosen = non_dominated(validation[rows])
        volumes.append(hypervolume(test[rows][chosen], criteria.reference))
    low, high = np.percentile(volumes, [2.5, 97.5])
    return Interval(float(low), float(high), "trials")
