"""Who is stopped at a rung, and whose rung is kept: asynchronous successive halving on several objectives."""

import math
from collections import defaultdict
from collections.abc import Mapping

from orchestrator.pareto.objectives import limits_of
from orchestrator.pareto.ranking import RankedPoint, ranked_point, ranks, survivors
from orchestrator.search.sweep_state import SweepState
from orchestrator.storage.trial_records import TrialRecord
from search_spaces.settings.sweep_settings import EarlyStoppingSettings, SweepSettings
from trainables.events import RungDecision

_RANK, _UNFIT = "rank", "unfit"
"""First words of the reasons: all that a study keeps of who ended a trial."""


def stopped_early(record: TrialRecord) -> bool:
    """Whether early stopping ended a trial, and not a budget or a person."""
    return record.status == "stopped" and (record.reason or "").startswith((f"{_RANK} ", f"{_UNFIT} "))


class RungDecider:
    """Gives the verdict on every rung of a sweep.

    Args:
        sweep: Settings with objectives filled in.
        ledger: All trials so far, with those of earlier starts; its front tells what is worth keeping.
    """

    def __init__(self, sweep: SweepSettings, sweep_state: SweepState) -> None:
        self.sweep_state = sweep_state
        self._halving = None if sweep.early_stopping is None else Halving(sweep.early_stopping, sweep_state)

    def decide(self, record: TrialRecord, rung: int, rungs: int) -> RungDecision:
        """Whether a trial goes on, and whether this rung may end up on the front.

        Asked again about a rung after its workers were lost, the new measurement takes the place of the old
        one.

        Args:
            record: The running trial with its rungs up to this one.
            rung: From 1.
            rungs: Of the whole trial; at the last one nobody is stopped.
        """
        last = rung == rungs
        keep = (last or self.sweep_state.criteria.every_rung) and self.sweep_state.front.would_join(
            record, rung
        )
        reason = None if self._halving is None else self._halving.why_stop(record, rung)
        return (
            RungDecision(keep=keep)
            if last or reason is None
            else RungDecision(go_on=False, keep=keep, reason=reason)
        )


class Halving:
    """At each rung the best 1/`reduction` of the newest trials go on.

    A decision never waits for other trials, so the first ones at a rung are judged on little: while fewer
    than `reduction` have been there, nobody is stopped. What they cost beyond their worth is the price of
    lanes that never idle.

    The numbers of the trials tell who is newest, not the order of their reports: a resumed sweep compares as
    if it had never been cut off.

    Args:
        settings: How hard to stop.
        ledger: Trials of earlier starts, and the front whose gains shield.

    Source:
        Li et al. 2020 (ASHA), arXiv 1810.05934; on several objectives: Schmucker et al. 2021 (MO-ASHA), arXiv
        2106.12639.

    Deviation:
        Who ranks low ends at once, where they would pause it and perhaps go on later: a lane holds one trial.
    """

    def __init__(self, settings: EarlyStoppingSettings, sweep_state: SweepState) -> None:
        self.settings, self.sweep_state = settings, sweep_state
        self._floors = [
            limit for metric, bounds in settings.floors.items() for limit in limits_of(metric, bounds)
        ]
        self._shown: dict[int, dict[int, RankedPoint]] = defaultdict(dict)
        """By rung, and there by the trial's number."""
        for number in sorted(sweep_state.records):
            for rung, metrics in enumerate(sweep_state.records[number].rungs, 1):
                self._remember(number, rung, metrics)

    def why_stop(self, record: TrialRecord, rung: int) -> str | None:
        """Why a trial should not train on from a rung, in words for people; None when it should."""
        metrics, settings = record.rungs[rung - 1], self.settings
        mine = self._remember(record.number, rung, metrics)
        unfit = self._unfit(metrics)
        if unfit is not None:
            return f"{_UNFIT} at rung {rung}: {unfit}"
        points = [mine, *(other for number, other in self._shown[rung].items() if number != record.number)]
        if (
            rung <= settings.grace_rungs
            or len(points) < settings.reduction
            or self._is_shielded(record, rung)
        ):
            return None
        place, best = int(ranks(points, settings.ties)[0]), survivors(len(points), settings.reduction)
        return (
            None
            if place < best
            else f"{_RANK} {place + 1} of {len(points)} at rung {rung}, the best {best} go on"
        )

    def _remember(self, number: int, rung: int, metrics: Mapping[str, float]) -> RankedPoint:
        # An unfit trial has been here too, but whoever is not stopped stands before it.
        mine = (
            ranked_point(metrics, self.sweep_state.criteria)
            if self._unfit(metrics) is None
            else RankedPoint(None, math.inf)
        )
        shown = self._shown[rung]
        shown[number] = mine
        if len(shown) > self.settings.newest_trials:
            del shown[min(shown)]
        return mine

    def _unfit(self, metrics: Mapping[str, float]) -> str | None:
        """What must not be, whatever the others do."""
        for objective in self.sweep_state.criteria.objectives:
            value = metrics.get(f"validation/{objective.name}", math.nan)
            if not math.isfinite(value):
                return f"{objective.name} = {value} is not a finite number"
        for floor in self._floors:
            if floor.violation(metrics) > 0:
                value = metrics.get(f"validation/{floor.metric}", math.nan)
                return (
                    f"{floor.metric} = {value:.4g}, where early_stopping.floors wants {floor.kind}"
                    f" {floor.bound:g}"
                )
        return None

    def _is_shielded(self, record: TrialRecord, rung: int) -> bool:
        """Whether the rung would add a share of the front's hypervolume that matters; to an empty front
        everything would."""
        front = self.sweep_state.front
        if not front.validation_hypervolume or not front.would_join(record, rung):
            return False
        return front.gain(record.rungs[rung - 1]) > self.settings.shield_frac * front.validation_hypervolume
