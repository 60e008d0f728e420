"""Stop criteria of a sweep: its budgets, and the request of `lethe stop`.

When a criterion is met no new trial starts, and running trials end at their next rung.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from orchestrator.search.sweep_state import SweepState
from orchestrator.storage.trial_records import TrialRecord
from search_spaces.settings.sweep_settings import BudgetSettings


class StopCriterion:
    """Decides whether a sweep must end; checked at every rung and before every new trial.

    Args:
        budget: The sweep's limits.
        sweep_state: All trials so far, from which the use of the budgets follows.
        request: File whose existence requests the sweep to stop (`lethe stop`).
        earlier_wall_s: Wall time of earlier starts in seconds.
        clock: Returns Unix time in seconds, on the scale of the records' times.
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
        # As if the sweep had run without a pause: the time between two starts does not count.
        self._started = clock() - earlier_wall_s
        self._stagnation = Stagnation(budget.stagnation_frac)
        self._reason: str | None = None

    @property
    def wall_s(self) -> float:
        """Wall time of the sweep in seconds, summed over all its starts."""
        return self._clock() - self._started

    def reason(self) -> str | None:
        """Returns why the sweep must end; None while it goes on."""
        # The first reason is kept, so that every trial that it ends records the same one.
        if self._reason is None:
            self._reason = self._find()
        return self._reason

    def out_of_time(self, record: TrialRecord) -> str | None:
        """Returns why one trial must end now, by `budget.trial_time_s`; None while it may go on."""
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
        """Returns the worker-hours of the attempts that run now: the sweep state counts ended ones only."""
        now = self._clock()
        running = (record for record in self.sweep_state.running.values() if record.started_at is not None)
        # A clock that was set back must not make the sum smaller.
        return (
            sum(max(0.0, now - (record.started_at or now)) for record in running)
            * self.sweep_state.workers_per_trial
            / 3600
        )


class Stagnation:
    """Counts the newest trials without growth of the hypervolume.

    Args:
        growth_frac: Relative increase over the largest hypervolume so far that counts as growth.
    """

    def __init__(self, growth_frac: float) -> None:
        self.growth_frac = growth_frac
        self._seen = self._since = 0
        self._best = 0.0

    def trials(self, hypervolumes: Sequence[float]) -> int:
        """Returns how many of the newest trials in a row brought no growth; 0 if the newest one did.

        Args:
            hypervolumes: The hypervolume after each trial with a result, starting with the first. The values
                of the last call must stay the same; new ones are appended.
        """
        # Only values that earlier calls have not seen are visited, so that a sweep stays linear in its
        # trials.
        for position in range(self._seen, len(hypervolumes)):
            self._since += 1
            if hypervolumes[position] > self._best * (1 + self.growth_frac):
                self._best, self._since = hypervolumes[position], 0
        self._seen = len(hypervolumes)
        return self._since


def wall_s_of_earlier_starts(records: Iterable[TrialRecord]) -> float:
    """Computes the wall time of a sweep's earlier starts: the time in which at least one trial ran.

    Args:
        records: Trials of the sweep; of a repeated trial, the last attempt counts.

    Returns:
        Seconds.
    """
    # The union of the trials' intervals: trials of several lanes overlap.
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
