"""The driver's state of its sweep, updated event by event.

An update never goes through all trials again, so that the cost of an event does not grow with the sweep.
"""

from collections import Counter, deque
from collections.abc import Iterable

from orchestrator.pareto.front import Front, GrowingFront
from orchestrator.pareto.objectives import Criteria
from orchestrator.storage.trial_records import Status, TrialRecord

NEWEST_ENDED = 16
"""Number of ended trials that the live display can show, in the order in which they ended."""


class SweepState:
    """All trials of a sweep, with the sums and the front that follow from them.

    One thread updates it; other threads may read it.

    Args:
        criteria: Objectives and limits of the sweep.
        workers_per_trial: Number of workers that a trial holds.
        records: Trials of earlier starts, in any order.
    """

    def __init__(
        self, criteria: Criteria, workers_per_trial: int, records: Iterable[TrialRecord] = ()
    ) -> None:
        self.criteria = criteria
        self.workers_per_trial = workers_per_trial
        self.front = GrowingFront(criteria)
        self.records: dict[int, TrialRecord] = {}
        """Number of the trial -> trial."""
        self.running: dict[int, TrialRecord] = {}
        """The trials that have not ended."""
        self.counts: Counter[Status] = Counter()
        self.spent_s = 0.0
        """Wall time in seconds of all ended attempts of all trials."""
        self.hypervolumes: list[float] = []
        """Hypervolume of the reported front after each trial that ended with a result."""
        self.newest_ended: deque[TrialRecord] = deque(maxlen=NEWEST_ENDED)
        self.reported_front: Front = self.front.reported()
        """The front on the test part, as it is reported."""
        # In the order in which the trials ended, so that the hypervolume curve continues across starts.
        for record in sorted(records, key=lambda record: (record.finished_at or 0.0, record.number)):
            self.update(record)

    def update(self, record: TrialRecord) -> None:
        """Enters the current state of a trial. Once the trial has ended, further updates change nothing."""
        known = self.records.get(record.number)
        if known is not None and known.ended:
            return
        # Take back what the previous state of this trial had added to the sums.
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
            # Computed here and not when it is read: other threads read it while this one may change the
            # front.
            self.reported_front = self.front.reported()
            self.hypervolumes.append(self.reported_front.hypervolume)

    @property
    def ended(self) -> int:
        """Number of trials that have ended: finished, stopped or failed."""
        return self.counts["finished"] + self.counts["stopped"] + self.counts["failed"]

    @property
    def worker_hours(self) -> float:
        """Worker-hours of all ended attempts: GPU-hours if each worker has one GPU."""
        return self.spent_s * self.workers_per_trial / 3600
