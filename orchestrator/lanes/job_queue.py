"""The actor between the driver and the lanes: jobs go in, events and outcomes come out.

Ray is not imported here, so that tests and readers of its values need no cluster.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from orchestrator.lanes.lane_registry import LaneRegistry, Worker
from orchestrator.lanes.retries import Interruption, Retries, describe_interruption, may_retry
from search_spaces.user_errors import UserError
from trainables.events import (
    Event,
    Failed,
    JobRestarted,
    Lost,
    Outcome,
    RungDecision,
    RungReached,
    RungTested,
    StepDone,
)

MOST_SAMPLES = 1000
"""System metrics that are kept for one job until the driver fetches them; the oldest are dropped first."""

POLL_S = 2.0
"""A waiting call returns at least this often, so that a call of a dead process does not stay for ever."""


class LostError(UserError):
    """Jobs have no result, through no fault of their own: no lane was left to run them."""


@dataclass
class JobEntry:
    """One job from submission to outcome."""

    job: dict[str, Any]
    """The job as JSON; empty once it has ended."""
    state: Literal["queued", "running", "ended"] = "queued"
    lane: str | None = None
    starts: int = 0
    """How many worker groups were given the job."""
    preemptions: int = 0
    """How many of these starts ended because a node went away."""
    last_sign_s: float = 0.0
    """Monotonic time of the job's last sign of life."""
    quiet_s: float | None = None
    """Seconds without a sign of life at which its workers were taken for hung."""
    events: list[Event] = field(default_factory=list)
    progress: StepDone | None = None
    decisions: dict[int, RungDecision] = field(default_factory=dict)
    """Decisions by rung."""
    outcome: Outcome | None = None
    started_at: float = 0.0
    """Unix time in seconds of the latest start."""

    def knows(self, event: Event) -> bool:
        """Return whether a rung was reported by an earlier worker group, which measured the same values."""
        if not isinstance(event, RungReached | RungTested):
            return False
        return any(type(known) is type(event) and known.rung == event.rung for known in self.events)

    def end(self, outcome: Outcome) -> None:
        """Note the outcome."""
        self.outcome, self.state, self.job = outcome, "ended", {}


@dataclass(frozen=True)
class JobNews:
    """What has happened to a job since its caller last looked."""

    events: list[Event]
    """Events that the caller has not seen, in order."""
    progress: StepDone | None
    """The latest step; None before the first."""
    outcome: Outcome | None
    """How the job ended; None while it has not."""


@dataclass(frozen=True)
class RunningJob:
    """A job that a lane runs."""

    lane: str
    started_at: float
    """Unix time in seconds."""
    progress: StepDone | None = None
    """The latest step; None while the job is being set up."""


@dataclass(frozen=True)
class LanesSnapshot:
    """What the lanes are doing at one moment."""

    running: dict[str, RunningJob] = field(default_factory=dict)
    """Running jobs by name."""
    queued: list[str] = field(default_factory=list)
    """Names of the jobs that wait, the next one first."""
    lanes: list[str] = field(default_factory=list)
    """Names of the lanes that are up."""


class JobQueue:
    """The state of all jobs of one driver.

    The lane pool makes it a Ray actor; all methods run on one event loop, so none of them needs a lock.

    Args:
        retries: Limits on the starts of one job.
        alive_nodes: Returns the ids of the nodes that are up.
    """

    def __init__(self, retries: Retries | None = None, alive_nodes: Callable[[], set[str]] = set) -> None:
        self._retries = retries or Retries()
        self._entries: dict[str, JobEntry] = {}
        self._queue: deque[str] = deque()
        self._registry = LaneRegistry(alive_nodes)
        self._system_metrics: dict[str, deque[dict[str, Any]]] = {}
        self._closed = False
        self._no_lane_left: str | None = None
        self._changed = asyncio.Condition()

    async def submit(self, name: str, job: dict[str, Any]) -> None:
        """Queue a job; a name that is known already is left as it is."""
        if name in self._entries:
            return
        self._entries[name] = JobEntry(job)
        if self._no_lane_left is not None:
            self._entries[name].end(Lost(self._no_lane_left))
        else:
            self._queue.append(name)
        await self._notify()

    async def lane_ready(self, lane: str, generation: str, workers: Sequence[Worker] = ()) -> None:
        """Note that a worker group of a lane is up; the job of an earlier group is queued again, or fails."""
        self._interrupt(lane)
        self._registry.add(lane, generation, workers)
        await self._notify()

    async def next_job(self, lane: str, generation: str, sequence: int) -> tuple[str, dict[str, Any]] | None:
        """Wait for the next job of a worker group.

        Args:
            lane: Name of the group's lane.
            generation: Identifies the group.
            sequence: Number of the job within the group, from 0. All ranks ask, and get the same job.

        Returns:
            Name and JSON of the job; None when the pool closes or the group has been given up.
        """
        while (group := self._registry.group(lane, generation)) is not None:
            if sequence < len(group.handed_out):
                name = group.handed_out[sequence]
                return name, self._entries[name].job
            if self._closed:
                return None
            if self._queue:
                name = self._queue.popleft()
                self._start(name, lane)
                group.handed_out.append(name)
                await self._notify()
            else:
                await self._wait()
        return None

    async def report(self, name: str, event: Event) -> None:
        """Take one event of a running job."""
        entry = self._entries[name]
        entry.last_sign_s = time.monotonic()
        if isinstance(event, StepDone):
            entry.progress = event
        elif not entry.knows(event):
            entry.events.append(event)
        await self._notify()

    async def add_system_metrics(self, name: str, samples: Sequence[dict[str, Any]]) -> None:
        """Take what a worker measured of itself during a job."""
        # This is no sign of life: a thread of the worker sends it, also while the job hangs.
        self._system_metrics.setdefault(name, deque(maxlen=MOST_SAMPLES)).extend(samples)

    async def take_system_metrics(self) -> dict[str, list[dict[str, Any]]]:
        """Return what workers have measured since the last call, by job."""
        taken, self._system_metrics = self._system_metrics, {}
        return {name: list(samples) for name, samples in taken.items()}

    async def decide(self, name: str, rung: int, decision: RungDecision) -> None:
        """Decide about a rung; the first decision counts, also for a group that runs the job again."""
        self._entries[name].decisions.setdefault(rung, decision)
        await self._notify()

    async def decision(self, name: str, rung: int) -> RungDecision:
        """Wait for the decision about a rung. A job whose result is not needed any more ends here."""
        entry = self._entries[name]
        while rung not in entry.decisions:
            if self._closed or entry.outcome is not None:
                return RungDecision(go_on=False, reason="the sweep ended")
            await self._wait()
            # The driver is slow here, and not the job.
            entry.last_sign_s = time.monotonic()
        return entry.decisions[rung]

    async def finish(self, name: str, outcome: Outcome) -> None:
        """Take a job's outcome; the first one counts."""
        entry = self._entries[name]
        if entry.outcome is None:
            # The group was taken for dead, so that the job had been queued again: that start is not needed.
            if entry.state == "queued":
                self._queue.remove(name)
            entry.end(outcome)
            await self._notify()

    async def give_up(self, name: str, reason: str) -> None:
        """Fail a job whose result is not needed any more; a lane that runs it ends it at its next rung."""
        self._entries.setdefault(name, JobEntry({}, state="ended"))
        await self.finish(name, Failed(reason))

    async def news(self, seen: Mapping[str, int]) -> dict[str, JobNews]:
        """Return what is new of some jobs; wait up to `POLL_S` if nothing is.

        Args:
            seen: By name of a job, the number of its events that the caller has.

        Returns:
            The jobs that run or have ended, by name; empty if all are still queued.
        """
        found = self._news(seen)
        if not any(news.events or news.outcome is not None for news in found.values()):
            await self._wait()
            found = self._news(seen)
        return found

    async def snapshot(self) -> LanesSnapshot:
        """Return running and queued jobs, and the lanes that are up."""
        running = {
            name: RunningJob(entry.lane or "", entry.started_at, entry.progress)
            for name, entry in self._entries.items()
            if entry.state == "running"
        }
        return LanesSnapshot(running, list(self._queue), self._registry.names)

    async def hung(self, timeout_s: float) -> list[Worker]:
        """Return the workers whose job has been quiet for longer than the timeout; the caller kills them.

        Each group is returned once.
        """
        now = time.monotonic()
        workers: list[Worker] = []
        for entry in self._entries.values():
            quiet_s = now - entry.last_sign_s
            if entry.state != "running" or entry.quiet_s is not None or quiet_s <= timeout_s:
                continue
            if group := self._registry.workers_of(entry.lane):
                entry.quiet_s = quiet_s
                workers += group
        return workers

    async def check_nodes(self) -> None:
        """Take back the jobs of lanes on nodes that went away.

        Without room for its workers elsewhere, such a lane may never come back for its job.
        """
        lanes = self._registry.on_lost_nodes()
        for lane in lanes:
            self._interrupt(lane)
        if lanes:
            await self._notify()

    async def lane_begun(self, lane: str, controller: Any) -> None:
        """Note that a lane looks for room; it can be ended at any time by the handle of its controller."""
        self._registry.controllers[lane] = controller

    async def controllers(self) -> dict[str, Any]:
        """Return the handles of all lanes that have begun, by lane."""
        return self._registry.controllers

    async def all_workers(self) -> list[Worker]:
        """Return the workers of all lanes that are up."""
        return self._registry.workers

    async def lane_ended(self, lane: str) -> None:
        """Note that a lane will not come back; its job is queued for others, or fails."""
        self._interrupt(lane)
        await self._notify()

    async def no_lane_left(self, reason: str) -> None:
        """End all jobs without an outcome as lost, now and from now on: a resumed sweep runs them."""
        self._no_lane_left = reason
        self._queue.clear()
        for entry in self._entries.values():
            if entry.outcome is None:
                entry.end(Lost(reason))
        await self._notify()

    async def close(self) -> None:
        """Let the lanes end after their current job."""
        self._closed = True
        await self._notify()

    def _start(self, name: str, lane: str) -> None:
        entry = self._entries[name]
        entry.state, entry.lane, entry.quiet_s = "running", lane, None
        entry.starts, entry.started_at, entry.last_sign_s = entry.starts + 1, time.time(), time.monotonic()

    def _interrupt(self, lane: str) -> None:
        """Take the running job from a worker group that is gone, if there was one."""
        node_gone = self._registry.remove(lane)
        for name, entry in self._entries.items():
            if entry.lane == lane and entry.state == "running":
                entry.preemptions += node_gone
                found = Interruption(entry.starts, entry.preemptions, node_gone, entry.quiet_s)
                line = describe_interruption(found, self._retries)
                if not may_retry(found, self._retries):
                    entry.end(Failed(line))
                    continue
                entry.state, entry.lane, entry.progress = "queued", None, None
                # Earlier events stay: the caller has seen them, and those of the new start follow.
                entry.events.append(JobRestarted(line))
                self._queue.appendleft(name)

    def _news(self, seen: Mapping[str, int]) -> dict[str, JobNews]:
        entries = {name: self._entries[name] for name in seen}
        return {
            name: JobNews(entry.events[seen[name] :], entry.progress, entry.outcome)
            for name, entry in entries.items()
            if entry.state != "queued" or len(entry.events) > seen[name]
        }

    async def _wait(self) -> None:
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait(), POLL_S)
            except TimeoutError:
                return

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
