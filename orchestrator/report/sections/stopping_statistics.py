"""Statistics of early stopping: what it saved, and how well each rung predicts the end.

Unlearning curves are not monotone, so a rung need not predict the end: it has to be measured.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import spearmanr

from orchestrator.pareto.dominance import hypervolume
from orchestrator.pareto.front import Front
from orchestrator.pareto.objectives import Criteria, criteria_of
from orchestrator.pareto.ranking import ranked_point, ranks, survivors
from orchestrator.search.early_stopping import stopped_early
from orchestrator.storage.trial_records import TrialRecord
from search_spaces.settings.sweep_settings import EarlyStoppingSettings, SweepSettings

FEWEST_FINISHED = 5
"""Number of finished trials below which a rank correlation is meaningless."""


@dataclass(frozen=True)
class RungStatistics:
    """Statistics of one rung before the last."""

    rung: int
    """The rung, counted from 1."""
    stopped: int
    """Number of trials that early stopping ended here."""
    finished: int
    """Number of trials that went on from here to their end; all other numbers are based on them."""
    correlations: Mapping[str, float | None]
    """Objective name -> Spearman's correlation of the values here and at the end; None with few trials, or
    where all values are equal."""
    joint_correlation: float | None
    """The same correlation for the joint ranks of all objectives."""
    outside: int
    """Number of finished trials that were outside the best 1/`reduction` of all trials that reached this
    rung."""
    lost_members: int
    """Number of front members that would be missing if these trials had ended here."""
    lost_hypervolume_frac: float | None
    """Share of the validation part's hypervolume that would be missing without the later rungs of these
    trials; None without hypervolume."""


@dataclass(frozen=True)
class StoppingStatistics:
    """Statistics of early stopping over a whole sweep."""

    trials: int
    """Number of trials with a result: finished or stopped."""
    stopped: int
    """Number of these that early stopping ended."""
    saved_worker_s: float | None
    """Estimated saving in seconds times workers: the rungs that stopped trials did not run, at the mean time
    per rung of the finished trials. None before the first trial has finished."""
    saved_frac: float | None
    """Share of the saving in what the sweep would have taken without stopping."""
    members: int
    """Number of members of the front."""
    rungs: tuple[RungStatistics, ...]
    """All rungs but the last; empty where trials have one rung."""


def stopping_statistics(
    sweep: SweepSettings, records: Sequence[TrialRecord], front: Front
) -> StoppingStatistics:
    """Evaluates early stopping after the fact; without it, what its default settings would have done.

    A stopped trial has no end to compare with. Where stopping is on, the statistics are therefore those of
    the better trials, and their correlations are lower than those of all trials would be.

    Args:
        sweep: Settings with objectives filled in.
        records: All trials of the sweep, in any order.
        front: The reported front of the same trials.
    """
    criteria, settings = criteria_of(sweep), sweep.early_stopping or EarlyStoppingSettings()
    with_result = [record for record in records if record.status in ("finished", "stopped") and record.rungs]
    most = max((len(record.rungs) for record in with_result), default=0)
    saved = _saved_worker_s(sweep, with_result)
    spent = sum(record.spent_s for record in records) * sweep.resources.workers_per_trial
    return StoppingStatistics(
        trials=len(with_result),
        stopped=sum(map(stopped_early, with_result)),
        saved_worker_s=saved,
        saved_frac=None if saved is None or saved + spent == 0 else saved / (saved + spent),
        members=len(front.members),
        rungs=tuple(_at_rung(rung, with_result, criteria, settings, front) for rung in range(1, most)),
    )


def _saved_worker_s(sweep: SweepSettings, records: Sequence[TrialRecord]) -> float | None:
    finished = [record for record in records if record.status == "finished" and record.duration_s is not None]
    if not finished:
        return None
    per_rung = statistics.mean((record.duration_s or 0.0) / len(record.rungs) for record in finished)
    # A trial with fewer steps than rungs has fewer rungs than planned.
    most = max(len(record.rungs) for record in finished)
    planned = {record.number: min(most, record.params.get("rungs", sweep.trial.rungs)) for record in records}
    left = sum(
        max(0, planned[record.number] - len(record.rungs)) for record in records if stopped_early(record)
    )
    saved_s: float = left * per_rung * sweep.resources.workers_per_trial
    return saved_s


def _at_rung(
    rung: int,
    records: Sequence[TrialRecord],
    criteria: Criteria,
    settings: EarlyStoppingSettings,
    front: Front,
) -> RungStatistics:
    here = [record for record in records if len(record.rungs) >= rung]
    finished = [record for record in here if record.status == "finished" and len(record.rungs) > rung]
    now = [ranked_point(record.rungs[rung - 1], criteria) for record in finished]
    end = [ranked_point(record.rungs[-1], criteria) for record in finished]
    pairs = [
        (one.point, other.point)
        for one, other in zip(now, end, strict=True)
        if one.point is not None and other.point is not None
    ]
    places = ranks([ranked_point(record.rungs[rung - 1], criteria) for record in here], settings.ties)
    best = survivors(len(here), settings.reduction) if len(here) >= settings.reduction else len(here)
    outside = {record.number for record, place in zip(here, places, strict=True) if place >= best}
    outside &= {record.number for record in finished}
    return RungStatistics(
        rung=rung,
        stopped=sum(stopped_early(record) and len(record.rungs) == rung for record in here),
        finished=len(finished),
        correlations={
            objective.name: _correlation(
                [one[index] for one, _ in pairs], [other[index] for _, other in pairs]
            )
            for index, objective in enumerate(criteria.objectives)
        },
        joint_correlation=_correlation(ranks(now, settings.ties), ranks(end, settings.ties)),
        outside=len(outside),
        lost_members=sum(member.record.number in outside and member.rung > rung for member in front.members),
        lost_hypervolume_frac=_lost_frac(records, criteria, outside, rung),
    )


def _correlation(one: ArrayLike, other: ArrayLike) -> float | None:
    values, ends = np.asarray(one), np.asarray(other)
    # Spearman's correlation of constant values is undefined.
    if len(values) < FEWEST_FINISHED or np.ptp(values) == 0 or np.ptp(ends) == 0:
        return None
    return float(spearmanr(values, ends).statistic)


def _lost_frac(
    records: Sequence[TrialRecord], criteria: Criteria, outside: set[int], rung: int
) -> float | None:
    # The trials are cut at the rung, not left out: their rungs up to here still count.
    cut = [
        replace(record, status="stopped", rungs=record.rungs[:rung]) if record.number in outside else record
        for record in records
    ]
    whole, left = (hypervolume(_points(each, criteria), criteria.reference) for each in (records, cut))
    return max(0.0, 1 - left / whole) if whole else None


def _points(records: Sequence[TrialRecord], criteria: Criteria) -> list[tuple[float, ...]]:
    """Returns the feasible validation points of all rungs that count."""
    if not criteria.every_rung:
        records = [
            replace(record, rungs=record.rungs[-1:]) for record in records if record.status == "finished"
        ]
    points = [ranked_point(metrics, criteria) for record in records for metrics in record.rungs]
    return [each.point for each in points if each.point is not None and each.violation == 0]
