"""Runs a batch of jobs on the lanes and keeps each result as it arrives.

This is the one loop behind `lethe prepare`, `confirm`, `audit`, `reproduce`, `dynamics` and `benchmark`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from orchestrator.lanes.job_queue import JobNews, LostError
from trainables.events import Event, Failed, Finished, Lost, Outcome, RungDecision, StepDone, Stopped
from trainables.jobs import AnyJob


class Lanes(Protocol):
    """The methods of `orchestrator.lanes.lane_pool.LanePool` that a batch uses."""

    def submit(self, job_name: str, job: AnyJob) -> None:
        """Queue a job under a name that no other job has."""

    def decide(self, job_name: str, rung: int, decision: RungDecision) -> None:
        """Decide about a rung of a job, before or after the job reaches it."""

    def news(self, seen: Mapping[str, int]) -> dict[str, JobNews]:
        """Return what is new of some jobs: see `JobQueue.news`."""


class BatchObserver(Protocol):
    """Shows people how far a batch is."""

    def stage(self, name: str, progress: StepDone | None = None) -> None:
        """Show the current stage, and how far the oldest running job is."""

    def say(self, line: str) -> None:
        """Print one line that stays."""


class JobTask(ABC):
    """One job of a batch, with what happens to its result."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the job in the queue, unique there; it is shown to people."""

    @abstractmethod
    def job(self) -> AnyJob:
        """Return the job that a lane runs."""

    @abstractmethod
    def keep(self, result: Mapping[str, Any]) -> str | None:
        """Write the job's result to where it lasts, and return a line for people; None for no line."""

    @abstractmethod
    def fail(self, reason: str) -> str | None:
        """Note that the job failed, and return a line for people; an exception here ends the batch."""

    def decisions(self) -> Mapping[int, RungDecision]:
        """Return the decisions about the job's rungs that are made beforehand, by rung."""
        return {}

    def take(self, event: Event) -> None:  # noqa: B027
        """Take one event of the running job; most tasks need none."""


@dataclass
class BatchResult:
    """How a batch ended."""

    failed: list[str] = field(default_factory=list)
    """Names of the tasks whose job failed."""
    stopped: bool = False
    """Whether `lethe stop` ended the batch before all its jobs had ended."""


@dataclass(frozen=True)
class JobBatch:
    """The loop that runs a batch, with the words and files of one command.

    Attributes:
        noun: What the results are called, in the plural, such as `audits`.
        log: File with the reasons why lanes were lost.
        title: Stage to show while the batch runs; the name of the oldest unfinished task when None.
        stop_request: File by which `lethe stop` ends the batch; None if it cannot be ended.
    """

    noun: str
    log: Path
    title: str | None = None
    stop_request: Path | None = None

    def run(self, tasks: Iterable[JobTask], lanes: Lanes, observer: BatchObserver) -> BatchResult:
        """Run all tasks, and keep each result as soon as it arrives.

        Args:
            tasks: Tasks with different names.
            lanes: Lanes that run the jobs.
            observer: Shows each result, and how far the batch is.

        Raises:
            LostError: No lane was left to run some of the jobs. Results that arrived before are kept, and
                the same call with the missing tasks completes the batch.
        """
        # In the order of submission, so that the first one is always the oldest.
        left = {task.name: task for task in tasks}
        total = len(left)
        if not left:
            return BatchResult()
        if self.stop_request is not None:
            # An old request was meant for a command that has ended.
            self.stop_request.unlink(missing_ok=True)
        _submit(left.values(), lanes)
        result = BatchResult()
        lost: list[str] = []
        seen = dict.fromkeys(left, 0)
        observer.stage(self.title or next(iter(left)))
        while left and not result.stopped:
            all_news = lanes.news({name: seen[name] for name in left})
            progress = next((news.progress for news in all_news.values() if news.outcome is None), None)
            observer.stage(self.title or next(iter(left)), progress)
            for name, news in all_news.items():
                for event in news.events:
                    left[name].take(event)
                seen[name] += len(news.events)
                if news.outcome is None:
                    continue
                line = _take_outcome(left.pop(name), news.outcome, result, lost)
                if line is not None:
                    observer.say(f"{name} [{total - len(left)}/{total}]: {line}")
            # Checked after all results at hand are kept.
            if left and self.stop_request is not None and self.stop_request.exists():
                result.stopped = True
                observer.say(
                    f"stopped by `lethe stop` with {len(left)} {self.noun} left;"
                    " run the same command again to continue with them"
                )
        # A batch that was stopped has missing results anyway, and the next call runs those jobs too.
        if lost and not result.stopped:
            raise LostError(
                f"{len(lost)} {self.noun} are missing: {lost[0]}",
                file=str(self.log),
                remedy="fix the cause and run the same command again: it continues where it stopped",
            )
        return result


def _submit(tasks: Iterable[JobTask], lanes: Lanes) -> None:
    for task in tasks:
        lanes.submit(task.name, task.job())
        for rung, decision in task.decisions().items():
            lanes.decide(task.name, rung, decision)


def _take_outcome(task: JobTask, outcome: Outcome, result: BatchResult, lost: list[str]) -> str | None:
    """Pass an outcome to its task, and return the task's line. The reasons of lost jobs go into `lost`."""
    match outcome:
        case Lost():
            lost.append(outcome.reason)
            return None
        case Failed():
            result.failed.append(task.name)
            return task.fail(outcome.reason)
        case Finished() | Stopped():
            return task.keep(outcome.result)
