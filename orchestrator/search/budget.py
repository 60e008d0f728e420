"""Why a sweep ends before its trials are used up: a budget, or somebody's wish. Running trials end at their
next rung."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from orchestrator.search.sweep_state import SweepState
from orchestrator.storage.trial_records import TrialRecord
from search_spaces.settings.sweep_settings import BudgetSettings


class StopCriterion:
    """Asked at every rung, and before every new trial.

    Args:
        budget: The sweep's limits.
        ledger: What was used up so far.
        request: File whose existence asks the sweep to stop (`lethe stop`).
        earlier_wall_s: Wall time of earlier starts in seconds.
        clock: Unix time in seconds, as records have it.
    """

    def __init__(
        self,
        budget: BudgetSettings,
        sweep_state: SweepState,
        request: Path,
        earlier_wall_s: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.budget, self.sweep_state, self.request, self._clock = budget, sweep_state, request, clock
        self._started = clock() - earlier_wall_s
        self._stagnation = Stagnation(budget.stagnation_frac)
        self._reason: str | None = None

    @property
    def wall_s(self) -> float:
        """Wall time of the sweep over all its starts, in seconds."""
        return self._clock() - self._started

    def reason(self) -> str | None:
        """Why the sweep is ending; once there is a reason it stays, so that everybody is told the same."""
        if self._reason is None:
            self._reason = self._find()
        return self._reason

    def out_of_time(self, record: TrialRecord) -> str | None:
        """Why one trial must end now."""
        limit = self.budget.trial_time_s
        if limit is None or record.started_at is None or self._clock() - record.started_at < limit:
            return None
        return f"budget.trial_time_s = {limit:g} is used up"

    def _find(self) -> str | None:
        budget, sweep_state = self.budget, self.sweep_state
        if self.request.exists():
            return "asked to stop by `lethe stop`"
        used: list[tuple[str, float | None, float]] = [
            ("wall_time_s", budget.wall_time_s, self.wall_s),
            ("worker_hours", budget.worker_hours, sweep_state.worker_hours + self._running_hours()),
            ("failures", budget.failures, sweep_state.counts["failed"]),
            ("stagnant_trials", budget.stagnant_trials, self._stagnation.trials(sweep_state.hypervolumes)),
        ]
        spent = [
            f"budget.{name} = {limit:g} is used up"
            for name, limit, value in used
            if limit is not None and value >= limit
        ]
        return spent[0] if spent else None

    def _running_hours(self) -> float:
        """Of the attempts that run now, beyond what the ledger has counted."""
        now = self._clock()
        running = (record for record in self.sweep_state.running.values() if record.started_at is not None)
        return (
            sum(max(0.0, now - (record.started_at or now)) for record in running)
            * self.sweep_state.workers_per_trial
            / 3600
        )


class Stagnation:
    """Counts trials without growth of the hypervolume.

    Args:
        growth_frac: Share of the largest hypervolume so far that counts as growth.
    """

    def __init__(self, growth_frac: float) -> None:
        self.growth_frac = growth_frac
        self._seen = self._since = 0
        self._best = 0.0

    def trials(self, hypervolumes: Sequence[float]) -> int:
        """Newest trials in a row that brought no growth; 0 where the newest one did.

        Args:
            hypervolumes: After each trial with a result, starting with the first; those of the last call with
                more behind them.
        """
        for position in range(self._seen, len(hypervolumes)):
            self._since += 1
            if hypervolumes[position] > self._best * (1 + self.growth_frac):
                self._best, self._since = hypervolumes[position], 0
        self._seen = len(hypervolumes)
        return self._since


def wall_s_of_earlier_starts(records: Iterable[TrialRecord]) -> float:
    """Wall time in which at least one trial ran, in seconds: what earlier starts of a sweep took.

    Args:
        records: Trials of the sweep; of a repeated one, the last attempt counts.
    """
    total, until = 0.0, 0.0
    spans = sorted(
        (r.started_at, r.finished_at)
        for r in records
        if r.started_at is not None and r.finished_at is not None
    )
    for start, end in spans:
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
