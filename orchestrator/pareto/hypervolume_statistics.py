"""Hypervolume of a sweep against worker time, and its bootstrap interval over the trials."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from orchestrator.pareto.dominance import hypervolume, non_dominated
from orchestrator.pareto.front import GrowingFront, candidates
from orchestrator.pareto.objectives import Criteria, to_minimised
from orchestrator.storage.trial_records import TrialRecord

RESAMPLES = 1000
"""Number of bootstrap resamples."""

Curve = Sequence[tuple[float, float]]
"""After each trial that ended: the worker-seconds spent so far, and the hypervolume reached with them."""


@dataclass(frozen=True)
class Interval:
    """A 95 % interval of a hypervolume; its meaning depends on `source`."""

    low: float
    high: float
    source: Literal["seeds", "trials"]
    """Where the interval comes from.

    `seeds`: Student's t-interval of the mean hypervolume when the whole front is run again under new seeds.

    `trials`: percentiles of the hypervolume when the sweep's trials are resampled with replacement. This
    interval shows how much the hypervolume depends on a few good draws of the search. It does not include how
    much the same trials differ under another seed, and it lies almost wholly below the sweep's own
    hypervolume, since a resample lacks about a third of the trials.
    """


def hypervolume_curve(records: Sequence[TrialRecord], criteria: Criteria, workers: int) -> Curve:
    """Computes the hypervolume of the reported front against the worker time of the trials that had ended.

    Args:
        records: All trials of a sweep.
        criteria: Objectives and limits of the sweep.
        workers: Number of workers that each trial held.

    Returns:
        One point per ended trial, in the order in which the trials ended.
    """
    front, spent_s, curve = GrowingFront(criteria), 0.0, []
    # Failed trials are included: they add nothing to the front, but they cost worker time.
    ended = [record for record in records if record.ended]
    for record in sorted(ended, key=lambda record: (record.finished_at or 0.0, record.number)):
        front.add(record)
        spent_s += record.spent_s * workers
        curve.append((spent_s, front.reported().hypervolume))
    return curve


def hypervolume_at(curve: Curve, worker_s: float) -> float:
    """Returns the hypervolume reached within a worker time in seconds; 0 before the first trial has ended."""
    return next((volume for spent_s, volume in reversed(curve) if spent_s <= worker_s), 0.0)


def bootstrap_interval(
    records: Sequence[TrialRecord], criteria: Criteria, resamples: int = RESAMPLES
) -> Interval | None:
    """Computes the 95 % bootstrap percentile interval of the hypervolume over the trials that have ended.

    See `Interval.source` for what the interval says and what it does not.

    Args:
        records: All trials of a sweep; failed trials are drawn too, and add nothing.
        criteria: Objectives and limits of the sweep.
        resamples: Number of resamples.

    Returns:
        The interval, or None with fewer than two ended trials. Equal records give an equal interval, because
        the draws are seeded.
    """
    ended = [record for record in records if record.ended]
    if len(ended) < 2:
        return None
    # Trials are resampled, not rungs: the rungs of one trial are not independent of each other.
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
        # A trial that is drawn twice adds nothing the second time, so a mask of the drawn trials is enough.
        drawn = np.zeros(len(ended), dtype=bool)
        drawn[draw.integers(0, len(ended), len(ended))] = True
        rows = drawn[owners]
        # As for the sweep's own front: choose on the validation part, measure on the test part.
        chosen = non_dominated(validation[rows])
        volumes.append(hypervolume(test[rows][chosen], criteria.reference))
    low, high = np.percentile(volumes, [2.5, 97.5])
    return Interval(float(low), float(high), "trials")
