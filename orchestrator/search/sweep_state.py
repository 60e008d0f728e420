"""What the driver knows about its sweep, kept up to date event by event: nothing that grows with the sweep is
gone over again."""

from collections import Counter, deque
from collections.abc import Iterable

from orchestrator.pareto.front import Front, GrowingFront
from orchestrator.pareto.objectives import Criteria
from orchestrator.storage.trial_records import Status, TrialRecord

NEWEST_ENDED = 16
"""Ended trials that are remembered in the order of their ends, for people to look at."""


class SweepState:
    """All trials of a sweep with the sums and the front that follow from them. Belongs to one thread, but may
    be read from others.

    Args:
        criteria: What is better.
        workers_per_trial: Workers that a trial holds.
        records: Trials of earlier starts, in any order.
    """

    def __init__(
        self, criteria: Criteria, workers_per_trial: int, records: Iterable[TrialRecord] = ()
    ) -> None:
        self.criteria = criteria
        self.workers_per_trial = workers_per_trial
        self.front = GrowingFront(criteria)
        self.records: dict[int, TrialRecord] = {}
        """By number."""
        self.running: dict[int, TrialRecord] = {}
        """Those that have not ended."""
        self.counts: Counter[Status] = Counter()
        self.spent_s = 0.0
        """Wall time of all attempts that have ended, of all trials, in seconds."""
        self.hypervolumes: list[float] = []
        """Of the reported front after each trial that ended with a result."""
        self.newest_ended: deque[TrialRecord] = deque(maxlen=NEWEST_ENDED)
        self.reported_front: Front = self.front.reported()
        """The front as people see it."""
        for record in sorted(records, key=lambda record: (record.finished_at or 0.0, record.number)):
            self.update(record)

    def update(self, record: TrialRecord) -> None:
        """Take a trial as it is now; once it has ended, a second report of its end changes nothing."""
        known = self.records.get(record.number)
        if known is not None and known.ended:
            return
        if known is not None:
            self.counts[known.status] -= 1
            self.spent_s -= known.spent_s
        self.records[record.number] = record
        self.counts[record.status] += 1
        self.spent_s += record.spent_s
        if record.ended:
            self.running.pop(record.number, None)
            self.newest_ended.append(record)
        else:
            self.running[record.number] = record
        if record.status in ("finished", "stopped"):
            self.front.add(record)
            # Made here and not when asked for: other threads read it.
            self.reported_front = self.front.reported()
            self.hypervolumes.append(self.reported_front.hypervolume)

    @property
    def ended(self) -> int:
        """Trials that have ended, in whatever way."""
        return self.counts["finished"] + self.counts["stopped"] + self.counts["failed"]

    @property
    def worker_hours(self) -> float:
        """Hours times workers of all attempts: GPU-hours where each worker has a GPU."""
        return self.spent_s * self.workers_per_trial / 3600
