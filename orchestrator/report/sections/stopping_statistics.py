"""What early stopping has saved, and how well each rung foretells the end: unlearning curves are not
monotone, so nobody may assume it."""

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
"""Finished trials below which a rank correlation says nothing."""


@dataclass(frozen=True)
class RungStatistics:
    """One rung before the last."""

    rung: int
    """From 1."""
    stopped: int
    """Trials that early stopping ended here."""
    finished: int
    """Trials that went on from here to their end: what all the following is based on."""
    correlations: Mapping[str, float | None]
    """Per objective: Spearman's correlation of the values here and at the end; None with few trials, or where
    all are equal."""
    joint_correlation: float | None
    """The same of the positions that the ranking of all objectives gives."""
    outside: int
    """Finished trials that stood outside the best 1/`reduction` here, among all that came here."""
    lost_members: int
    """Members of the front that would be missing had those ended here."""
    lost_hypervolume_frac: float | None
    """Share of the validation part's hypervolume that would be missing with all later rungs of those; None
    where there is none."""


@dataclass(frozen=True)
class StoppingStatistics:
    """Early stopping over a whole sweep."""

    trials: int
    """With a result: finished or stopped."""
    stopped: int
    """Of these, ended by early stopping."""
    saved_worker_s: float | None
    """Estimate, in seconds times workers: for each stopped trial, the rungs that it did not run at the mean
    time per rung of the finished trials. None before the first one has finished."""
    saved_frac: float | None
    """Share of that in what the sweep would have taken without stopping."""
    members: int
    """Of the front."""
    rungs: tuple[RungStatistics, ...]
    """All but the last; none where trials have one rung."""


def stopping_statistics(
    sweep: SweepSettings, records: Sequence[TrialRecord], front: Front
) -> StoppingStatistics:
    """Look back on a sweep, with or without early stopping; without, what its default settings would have
    done is told.

    Who was stopped has no end to be compared with. So what is told of finished trials is about a better half
    where stopping is on: their correlations come out lower than those of all trials would.

    Args:
        sweep: Settings with objectives filled in.
        records: All trials of the sweep, in any order.
        front: Of the same records, as reported.
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
    # Fewer than planned where a trial has fewer steps than rungs.
    most = max(len(record.rungs) for record in finished)
    planned = {record.number: min(most, record.params.get("rungs", sweep.trial.rungs)) for record in records}
    left = sum(
        max(0, planned[record.number] - len(record.rungs)) for record in records if stopped_early(record)
    )
    return left * per_rung * sweep.resources.workers_per_trial


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
    if len(values) < FEWEST_FINISHED or np.ptp(values) == 0 or np.ptp(ends) == 0:
        return None
    return float(spearmanr(values, ends).statistic)


def _lost_frac(
    records: Sequence[TrialRecord], criteria: Criteria, outside: set[int], rung: int
) -> float | None:
    cut = [
        replace(record, status="stopped", rungs=record.rungs[:rung]) if record.number in outside else record
        for record in records
    ]
    whole, left = (hypervolume(_points(each, criteria), criteria.reference) for each in (records, cut))
    return max(0.0, 1 - left / whole) if whole else None


def _points(records: Sequence[TrialRecord], criteria: Criteria) -> list[tuple[float, ...]]:
    """Feasible validation points of all rungs that count."""
    if not criteria.every_rung:
        records = [
            replace(record, rungs=record.rungs[-1:]) for record in records if record.status == "finished"
        ]
    points = [ranked_point(metrics, criteria) for record in records for metrics in record.rungs]
    return [each.point for each in points if each.point is not None and each.violation == 0]
