"""Runs a batch of jobs on the lanes and keeps each result as it arrives: the one loop behind `lethe prepare`,
`confirm`, `audit`, `reproduce`, `dynamics` and `benchmark`."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from orchestrator.lanes.job_queue import JobNews, LostError
from trainables.events import Event, Failed, Finished, Lost, Outcome, RungDecision, StepDone, Stopped
from trainables.jobs import AnyJob


class Lanes(Protocol):
    """What a batch needs of `orchestrator.lanes.lane_pool.LanePool`."""

    def submit(self, job_name: str, job: AnyJob) -> None:
        """Queue a job under a name that is its own."""

    def decide(self, job_name: str, rung: int, decision: RungDecision) -> None:
        """Decide about a rung of a job, before or after the job reaches it."""

    def news(self, seen: Mapping[str, int]) -> dict[str, JobNews]:
        """What is new of some jobs: see `JobQueue.news`."""


class BatchObserver(Protocol):
    """Shows people how far a batch is."""

    def stage(self, name: str, progress: StepDone | None = None) -> None:
        """Show the current stage, and how far the oldest running job is."""

    def say(self, line: str) -> None:
        """Print one line that stays."""


class JobTask(ABC):
    """A job of a batch, and what is done with its result."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the job, its own in the queue, as people see it."""

    @abstractmethod
    def job(self) -> AnyJob:
        """What a lane runs."""

    @abstractmethod
    def keep(self, result: Mapping[str, Any]) -> str | None:
        """Write the job's result where it lasts. Returns: a line for people."""

    @abstractmethod
    def fail(self, reason: str) -> str | None:
        """Note that the job failed; may raise, which ends the batch. Returns: a line for people."""

    def decisions(self) -> Mapping[int, RungDecision]:
        """Decisions about the job's rungs that are known beforehand."""
        return {}

    def take(self, event: Event) -> None:  # noqa: B027
        """Take one event of the running job; most tasks need none."""


@dataclass
class BatchResult:
    """What has become of a batch."""

    failed: list[str] = field(default_factory=list)
    """Names of the tasks whose job failed."""
    stopped: bool = False
    """Whether `lethe stop` ended it before its end."""


@dataclass(frozen=True)
class JobBatch:
    """How a batch is run.

    Attributes:
        title: What is going on, for people; the name of the oldest unfinished task when None.
        noun: What its results are called, in the plural: `audits`.
        stop_request: File by which `lethe stop` ends the batch; None: it cannot be ended.
        log: File that tells why lanes were lost.
    """

    noun: str
    log: Path
    title: str | None = None
    stop_request: Path | None = None

    def run(self, tasks: Iterable[JobTask], lanes: Lanes, observer: BatchObserver) -> BatchResult:
        """Run all tasks; a result is kept as soon as it is there, whatever is still running.

        Raises:
            LostError: Jobs had no lane left to run on. What ended before is kept, and the same call runs what
                is missing.
        """
        left = {task.name: task for task in tasks}
        if not left:
            return BatchResult()
        if self.stop_request is not None:
            self.stop_request.unlink(missing_ok=True)
        for task in left.values():
            lanes.submit(task.name, task.job())
            for rung, decision in task.decisions().items():
                lanes.decide(task.name, rung, decision)
        result, lost, total = BatchResult(), dict[str, str](), len(left)
        seen = dict.fromkeys(left, 0)
        observer.stage(self.title or next(iter(left)))
        while left and not result.stopped:
            news = lanes.news({name: seen[name] for name in left})
            running = next((one.progress for one in news.values() if one.outcome is None), None)
            observer.stage(self.title or next(iter(left)), running)
            for name, one in news.items():
                for event in one.events:
                    left[name].take(event)
                seen[name] += len(one.events)
                if one.outcome is None:
                    continue
                if (line := _end(left.pop(name), one.outcome, result, lost)) is not None:
                    observer.say(f"{name} [{total - len(left)}/{total}]: {line}")
            # Only now: every result at hand is kept before the batch ends.
            if left and self.stop_request is not None and self.stop_request.exists():
                result.stopped = True
                observer.say(
                    f"stopped by `lethe stop` with {len(left)} {self.noun} left; the same command goes on"
                    " with them"
                )
        if lost and not result.stopped:
            reason = next(iter(lost.values()))
            raise LostError(
                f"{len(lost)} {self.noun} are missing: {reason}",
                file=str(self.log),
                remedy="mend the cause and run the same command again: it goes on where it was",
            )
        return result


def _end(task: JobTask, outcome: Outcome, result: BatchResult, lost: dict[str, str]) -> str | None:
    match outcome:
        case Lost():
            lost[task.name] = outcome.reason
            return None
        case Failed():
            result.failed.append(task.name)
            return task.fail(outcome.reason)
        case Finished() | Stopped():
            return task.keep(outcome.result)
