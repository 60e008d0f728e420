"""Early stopping by asynchronous successive halving (ASHA) on several objectives.

At each rung it is decided whether the trial goes on, and whether the rung's weights are kept for the front.
"""

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
"""First words of the reasons that early stopping gives.

The study stores only the reason of a stopped trial, so these words distinguish early stopping from budgets
and from `lethe stop`.
"""


def stopped_early(record: TrialRecord) -> bool:
    """Returns whether early stopping ended a trial, rather than a budget or `lethe stop`."""
    return record.status == "stopped" and (record.reason or "").startswith((f"{_RANK} ", f"{_UNFIT} "))


class RungDecider:
    """Decides at every rung of a sweep whether the trial goes on and whether the rung is kept.

    Args:
        sweep: Settings with objectives filled in.
        sweep_state: All trials so far, including those of earlier starts; its front decides which rungs are
            worth keeping.
    """

    def __init__(self, sweep: SweepSettings, sweep_state: SweepState) -> None:
        self.sweep_state = sweep_state
        self._halving = None if sweep.early_stopping is None else Halving(sweep.early_stopping, sweep_state)

    def decide(self, record: TrialRecord, rung: int, rungs: int) -> RungDecision:
        """Decides whether a trial goes on, and whether this rung may end up on the front.

        A rung may be decided twice, when the trial was repeated because its workers were lost. The new
        measurement then replaces the old one.

        Args:
            record: The running trial with its rungs up to this one.
            rung: The rung, counted from 1.
            rungs: Number of rungs of the whole trial; at the last rung no trial is stopped.
        """
        last = rung == rungs
        keep = (last or self.sweep_state.criteria.every_rung) and self.sweep_state.front.would_join(
            record, rung
        )
        # Called at the last rung too, where the measurement must enter the comparison of later trials.
        reason = None if self._halving is None else self._halving.why_stop(record, rung)
        return (
            RungDecision(keep=keep)
            if last or reason is None
            else RungDecision(go_on=False, keep=keep, reason=reason)
        )


class Halving:
    """Successive halving: at each rung the best 1/`reduction` of the newest trials go on.

    A decision never waits for other trials, so that lanes never idle. The first trials at a rung are
    therefore compared with few others: while fewer than `reduction` trials have reached a rung, none is
    stopped there.

    The newest trials are those with the highest numbers, whatever the order of their reports. A resumed sweep
    therefore decides as if it had not been interrupted.

    Args:
        settings: The sweep's `early_stopping:` block.
        sweep_state: Trials of earlier starts, and the front whose hypervolume gains shield a trial.

    Source:
        Li et al. 2020 (ASHA), arXiv 1810.05934; on several objectives: Schmucker et al. 2021 (MO-ASHA), arXiv
        2106.12639.

    Deviation:
        A trial that ranks low ends at once. ASHA would pause it and perhaps promote it later, but a lane
        holds one trial.
    """

    def __init__(self, settings: EarlyStoppingSettings, sweep_state: SweepState) -> None:
        self.settings, self.sweep_state = settings, sweep_state
        self._floors = [
            limit for metric, bounds in settings.floors.items() for limit in limits_of(metric, bounds)
        ]
        self._shown: dict[int, dict[int, RankedPoint]] = defaultdict(dict)
        """Rung -> number of the trial -> its measurement; the newest trials at each rung only."""
        for number in sorted(sweep_state.records):
            for rung, metrics in enumerate(sweep_state.records[number].rungs, 1):
                self._remember(number, rung, metrics)

    def why_stop(self, record: TrialRecord, rung: int) -> str | None:
        """Returns the reason to stop a trial at a rung, as a text for the user; None when it goes on."""
        metrics, settings = record.rungs[rung - 1], self.settings
        # Remembered before any decision: trials that are stopped or shielded count in later comparisons too.
        mine = self._remember(record.number, rung, metrics)
        unfit = self._unfit(metrics)
        if unfit is not None:
            return f"{_UNFIT} at rung {rung}: {unfit}"
        # This trial comes first. Its own entry among the others may be gone already, if it is an old trial
        # that was repeated.
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
        # Unfit trials count in the comparison, ranked last.
        mine = (
            ranked_point(metrics, self.sweep_state.criteria)
            if self._unfit(metrics) is None
            else RankedPoint(None, math.inf)
        )
        shown = self._shown[rung]
        shown[number] = mine
        # One entry is added per call, so one removal restores the limit.
        if len(shown) > self.settings.newest_trials:
            del shown[min(shown)]
        return mine

    def _unfit(self, metrics: Mapping[str, float]) -> str | None:
        """Returns why a measurement stops its trial whatever the other trials show; None when it does not."""
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
        """Returns whether the rung would add more than `shield_frac` of the front's hypervolume."""
        front = self.sweep_state.front
        # Every trial would improve an empty front, so an empty front shields none.
        if not front.validation_hypervolume or not front.would_join(record, rung):
            return False
        return front.gain(record.rungs[rung - 1]) > self.settings.shield_frac * front.validation_hypervolume
