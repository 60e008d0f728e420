"""The actor between the driver, Tune's leases and the lanes: jobs go in, events and outcomes come out."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from search_spaces.user_errors import UserError
from trainables.events import RungDecision

MOST_SAMPLES = 1000
"""Measurements of workers that are kept for one job until the driver fetches them; the oldest go first."""

POLL_S = 2.0
"""A waiting call returns at least this often, so that a dead caller leaves nothing behind."""


class LostError(UserError):
    """A job ended without a result through no fault of its own: no lane was left to run it."""


@dataclass(frozen=True)
class Retries:
    """What a job is forgiven."""

    attempts: int = 2
    """Times it is handed out when the worker group that ran it died or hung."""
    preemptions: int = 20
    """Times that a node of its workers may go away, which is no attempt."""


Worker = tuple[str, Any]
"""One rank of a worker group: its node, and the handle that ends it."""


@dataclass
class Lane:
    """A worker group that is up."""

    generation: str
    workers: Sequence[Worker] = ()
    handed_out: list[str] = field(default_factory=list)


@dataclass
class JobEntry:
    """One job from submission to outcome."""

    job: dict[str, Any]
    state: str = "queued"
    lane: str | None = None
    starts: int = 0
    preemptions: int = 0
    heard: float = 0.0
    """When the job last gave a sign of life, on the monotonic clock."""
    quiet_s: float | None = None
    """How long it had been quiet, when its workers were taken for hung."""
    events: list[dict[str, Any]] = field(default_factory=list)
    progress: dict[str, Any] = field(default_factory=dict)
    decisions: dict[int, RungDecision] = field(default_factory=dict)
    outcome: dict[str, Any] | None = None
    started: float | None = None

    def knows(self, event: dict[str, Any]) -> bool:
        """Whether a rung was told already, by a group that died afterwards: what it measured was the same."""
        rung = event.get("rung")
        return rung is not None and any(
            known["event"] == event["event"] and known.get("rung") == rung for known in self.events
        )

    def lose(self, reason: str) -> None:
        """End without a result, through no fault of the job."""
        self.outcome, self.state = {"status": "lost", "reason": reason}, "lost"


@dataclass(frozen=True)
class JobNews:
    """What has become of a job since its caller last looked."""

    events: list[dict[str, Any]]
    """Those that the caller has not seen, in order."""
    progress: dict[str, Any]
    """The latest step; empty before the first."""
    outcome: dict[str, Any] | None
    """How it ended; None while it has not."""


class JobQueue:
    """State of all jobs of one driver. Made a Ray actor by the pool; all methods run on one event loop.

    Args:
        retries: What a job is forgiven.
        alive_nodes: Names of the nodes that are up.
    """

    def __init__(self, retries: Retries = Retries(), alive_nodes: Callable[[], set[str]] = set) -> None:
        self._retries, self._alive_nodes = retries, alive_nodes
        self._entries: dict[str, JobEntry] = {}
        self._queue: deque[str] = deque()
        self._lanes: dict[str, Lane] = {}
        self._controllers: dict[str, Any] = {}
        self._samples: dict[str, deque[dict[str, Any]]] = {}
        self._closed = False
        self._no_lane_left: str | None = None
        self._changed = asyncio.Condition()

    async def submit(self, entry: str, job: dict[str, Any]) -> None:
        """Queue a job; a ticket that is known already is left as it is."""
        if entry in self._entries:
            return
        self._entries[entry] = JobEntry(job)
        if self._no_lane_left is not None:
            self._entries[entry].lose(self._no_lane_left)
        else:
            self._queue.append(entry)
        await self._notify()

    async def lane_ready(self, lane: str, generation: str, workers: Sequence[Worker] = ()) -> None:
        """A worker group of `lane` is up. What an earlier group of that lane was running is queued again, or
        failed."""
        self._give_back(lane)
        self._lanes[lane] = Lane(generation, workers)
        await self._notify()

    async def next_job(self, lane: str, generation: str, sequence: int) -> tuple[str, dict[str, Any]] | None:
        """The `sequence`-th job of a worker group: every rank asks, all get the same. None when the pool
        closes."""
        while True:
            state = self._lanes.get(lane)
            if state is None or state.generation != generation:
                return None  # the lane was given up, or a newer group of it has taken over
            handed_out = state.handed_out
            if sequence < len(handed_out):
                name = handed_out[sequence]
                return name, self._entries[name].job
            if self._closed:
                return None
            if self._queue:
                name = self._queue.popleft()
                entry = self._entries[name]
                entry.state, entry.lane, entry.started = "running", lane, time.time()
                entry.starts, entry.heard, entry.quiet_s = entry.starts + 1, time.monotonic(), None
                handed_out.append(name)
                await self._notify()
                continue
            await self._wait()

    async def report(self, name: str, event: dict[str, Any]) -> None:
        """Take one event of a running job."""
        entry = self._entries[name]
        entry.heard = time.monotonic()
        if event["event"] == "progress":
            entry.progress = event
        elif not entry.knows(event):
            entry.events.append(event)
        await self._notify()

    async def add_system_metrics(self, name: str, samples: Sequence[dict[str, Any]]) -> None:
        """Take what a worker measured of itself during a job. No sign of life: the worker does it in a
        thread, also while it hangs."""
        self._samples.setdefault(name, deque(maxlen=MOST_SAMPLES)).extend(samples)

    async def take_system_metrics(self) -> dict[str, list[dict[str, Any]]]:
        """Hand out, once, what workers measured since the last call, by job."""
        taken, self._samples = self._samples, {}
        return {name: list(samples) for name, samples in taken.items()}

    async def decide(self, name: str, rung: int, decision: RungDecision) -> None:
        """Give the verdict on a rung; the first one counts, also for a group that runs the job again."""
        self._entries[name].decisions.setdefault(rung, decision)
        await self._notify()

    async def decision(self, name: str, rung: int) -> RungDecision:
        """Wait for the verdict on a rung. A job that nobody waits for any more is told to end."""
        entry = self._entries[name]
        while rung not in entry.decisions:
            if self._closed or entry.outcome is not None:
                return RungDecision(go_on=False, reason="the sweep ended")
            await self._wait()
            entry.heard = time.monotonic()  # it is the driver that is slow
        return entry.decisions[rung]

    async def finish(self, name: str, outcome: dict[str, Any]) -> None:
        """Take a job's outcome; the first one counts."""
        entry = self._entries[name]
        if entry.outcome is None:
            if entry.state == "queued":  # by a group that was taken for dead: nobody else needs to run it
                self._queue.remove(name)
            entry.outcome, entry.state = outcome, outcome["status"]
            entry.job = {}
            await self._notify()

    async def give_up(self, name: str, reason: str) -> None:
        """Fail a job that nobody waits for any more, queued or not yet: a lane that runs it is told so at its
        next rung."""
        self._entries.setdefault(name, JobEntry({}, state="given up"))
        await self.finish(name, {"status": "failed", "reason": reason})

    async def news(self, seen: Mapping[str, int]) -> dict[str, JobNews]:
        """What is new of some jobs; waits a little when nothing is.

        Args:
            seen: Name of a job -> how many of its events the caller has.

        Returns:
            The jobs that run or have ended, by name; empty where all are still queued.
        """
        found = self._news(seen)
        if not any(news.events or news.outcome is not None for news in found.values()):
            await self._wait()
            found = self._news(seen)
        return found

    async def snapshot(self) -> dict[str, Any]:
        """Running and queued jobs with their progress, and the lanes that are up."""
        running = {
            name: {"lane": t.lane, "started": t.started, **t.progress}
            for name, t in self._entries.items()
            if t.state == "running"
        }
        return {"running": running, "queued": list(self._queue), "lanes": list(self._lanes)}

    async def hung(self, timeout_s: float) -> list[Worker]:
        """Workers of jobs that have been quiet for longer: whoever asks ends them. Names each group once."""
        now = time.monotonic()
        workers: list[Worker] = []
        for entry in self._entries.values():
            quiet_s = now - entry.heard
            if (
                entry.state == "running"
                and entry.quiet_s is None
                and quiet_s > timeout_s
                and entry.lane in self._lanes
            ):
                entry.quiet_s = quiet_s
                workers += self._lanes[entry.lane].workers
        return workers

    async def look_at_nodes(self) -> None:
        """Take back what ran on nodes that went away: without room for its workers elsewhere, their lane may
        never come back for it."""
        alive = self._alive_nodes()
        gone = [
            name
            for name, lane in self._lanes.items()
            if lane.workers and {node for node, _ in lane.workers} - alive
        ]
        for lane in gone:
            self._give_back(lane)
        if gone:
            await self._notify()

    async def lane_begun(self, lane: str, controller: Any) -> None:
        """A lane has begun to look for room. `controller` is the handle by which it can be ended at any
        time."""
        self._controllers[lane] = controller

    async def controllers(self) -> dict[str, Any]:
        """Handles of all lanes that have begun, by lane."""
        return self._controllers

    async def everybody(self) -> list[Worker]:
        """Workers of all lanes that are up."""
        return [worker for lane in self._lanes.values() for worker in lane.workers]

    async def lane_ended(self, lane: str, reason: str) -> None:
        """A lane will not come back: what it was running is queued for others, or failed."""
        self._give_back(lane)
        await self._notify()

    async def no_lane_left(self, reason: str) -> None:
        """Jobs without an outcome are lost, now and from now on: they did not fail, and a resumed sweep runs
        them."""
        self._no_lane_left = reason
        self._queue.clear()
        for entry in self._entries.values():
            if entry.outcome is None:
                entry.lose(reason)
        await self._notify()

    async def close(self) -> None:
        """Send the lanes home after their current job."""
        self._closed = True
        await self._notify()

    def _give_back(self, lane: str) -> None:
        """Take from a worker group that is gone what it was running."""
        group = self._lanes.pop(lane, None)
        gone = group is not None and bool({node for node, _ in group.workers} - self._alive_nodes())
        for name, entry in self._entries.items():
            if entry.lane == lane and entry.state == "running":
                self._lost(name, entry, preempted=gone)

    def _lost(self, name: str, entry: JobEntry, *, preempted: bool) -> None:
        entry.preemptions += preempted
        if preempted:
            cause = "a node of its workers went away"
        elif entry.quiet_s is not None:
            cause = f"its workers hung (no sign of life for {entry.quiet_s:.0f} s) and were killed"
        else:
            cause = "its workers died"
        died = entry.starts - entry.preemptions
        if died < self._retries.attempts and entry.preemptions <= self._retries.preemptions:
            entry.state, entry.lane, entry.progress = "queued", None, {}
            # The events stay: those of the new attempt follow them.
            entry.events.append(
                {"event": "again", "line": f"{cause}; it starts again (start {entry.starts + 1})"}
            )
            self._queue.appendleft(name)
        else:
            counts = (
                f"{died} of {self._retries.attempts} attempts, {entry.preemptions} of"
                f" {self._retries.preemptions} preemptions"
            )
            entry.state, entry.outcome = (
                "failed",
                {"status": "failed", "reason": f"{cause}; used up: {counts}"},
            )

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
