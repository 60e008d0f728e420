"""The actor between the driver, Tune's leases and the lanes: jobs go in, events and outcomes come out."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from search_spaces.user_errors import UserError
from trainables.jobs import Verdict

POLL_S = 2.0
"""A waiting call returns at least this often, so that a dead caller leaves nothing behind."""

MOST_ATTEMPTS = 2
"""Times a job is handed out when the worker group that ran it died."""


class LostError(UserError):
    """A job ended without a result through no fault of its own: no lane was left to run it."""


@dataclass
class Ticket:
    """One job from submission to outcome."""

    job: dict[str, Any]
    state: str = "queued"
    lane: str | None = None
    attempts: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)
    progress: dict[str, Any] = field(default_factory=dict)
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    outcome: dict[str, Any] | None = None
    started: float | None = None

    def lose(self, reason: str) -> None:
        """End without a result, through no fault of the job."""
        self.outcome, self.state = {"status": "lost", "reason": reason}, "lost"


class Mailbox:
    """State of all jobs of one driver. Made a Ray actor by the pool; all methods run on one event loop."""

    def __init__(self) -> None:
        self._tickets: dict[str, Ticket] = {}
        self._queue: deque[str] = deque()
        self._lanes: dict[str, dict[str, Any]] = {}
        self._closed = False
        self._no_lane_left: str | None = None
        self._changed = asyncio.Condition()

    async def submit(self, ticket: str, job: dict[str, Any]) -> None:
        """Queue a job; a ticket that is known already is left as it is."""
        if ticket in self._tickets:
            return
        self._tickets[ticket] = Ticket(job)
        if self._no_lane_left is not None:
            self._tickets[ticket].lose(self._no_lane_left)
        else:
            self._queue.append(ticket)
        await self._notify()

    async def lane_ready(self, lane: str, generation: str) -> None:
        """A worker group of `lane` is up. What an earlier group of that lane was running is queued again, or failed."""
        self._lanes[lane] = {"generation": generation, "handed_out": [], "since": time.time()}
        for name, ticket in self._tickets.items():
            if ticket.lane == lane and ticket.state == "running":
                self._lost(name, ticket)
        await self._notify()

    async def next_job(self, lane: str, generation: str, sequence: int) -> tuple[str, dict[str, Any]] | None:
        """The `sequence`-th job of a worker group: every rank asks, all get the same. None when the pool closes."""
        while True:
            state = self._lanes.get(lane)
            if state is None or state["generation"] != generation:
                return None  # the lane was given up, or a newer group of it has taken over
            handed_out = state["handed_out"]
            if sequence < len(handed_out):
                name = handed_out[sequence]
                return name, self._tickets[name].job
            if self._closed:
                return None
            if self._queue:
                name = self._queue.popleft()
                ticket = self._tickets[name]
                ticket.state, ticket.lane, ticket.started = "running", lane, time.time()
                ticket.attempts += 1
                handed_out.append(name)
                await self._notify()
                continue
            await self._wait()

    async def report(self, name: str, event: dict[str, Any]) -> None:
        """Take one event of a running job."""
        ticket = self._tickets[name]
        if event["event"] == "progress":
            ticket.progress = event
        else:
            ticket.events.append(event)
        await self._notify()

    async def judge(self, name: str, rung: int, verdict: Verdict) -> None:
        """Give the verdict on a rung; the first one counts, also for a group that runs the job again."""
        self._tickets[name].verdicts.setdefault(rung, verdict)
        await self._notify()

    async def verdict(self, name: str, rung: int) -> Verdict:
        """Wait for the verdict on a rung. A job that nobody waits for any more is told to end."""
        ticket = self._tickets[name]
        while rung not in ticket.verdicts:
            if self._closed or ticket.outcome is not None:
                return Verdict(go_on=False, reason="the sweep ended")
            await self._wait()
        return ticket.verdicts[rung]

    async def finish(self, name: str, outcome: dict[str, Any]) -> None:
        """Take a job's outcome; the first one counts."""
        ticket = self._tickets[name]
        if ticket.outcome is None:
            if ticket.state == "queued":  # by a group that was taken for dead: nobody else needs to run it
                self._queue.remove(name)
            ticket.outcome, ticket.state = outcome, outcome["status"]
            ticket.job = {}
            await self._notify()

    async def give_up(self, name: str, reason: str) -> None:
        """Fail a job that nobody waits for any more, queued or not yet: a lane that runs it is told so at its next rung."""
        self._tickets.setdefault(name, Ticket({}, state="given up"))
        await self.finish(name, {"status": "failed", "reason": reason})

    async def follow(self, name: str, seen: int) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any] | None]:
        """Events after the first `seen`, the latest progress, and the outcome; waits a little for something new."""
        ticket = self._tickets[name]
        if ticket.outcome is None and len(ticket.events) <= seen:
            await self._wait()
        return ticket.events[seen:], ticket.progress, ticket.outcome

    async def snapshot(self) -> dict[str, Any]:
        """Running and queued jobs with their progress, and the lanes that are up."""
        running = {name: {"lane": t.lane, "started": t.started, **t.progress} for name, t in self._tickets.items() if t.state == "running"}
        return {"running": running, "queued": list(self._queue), "lanes": list(self._lanes)}

    async def lane_ended(self, lane: str, reason: str) -> None:
        """A lane will not come back: what it was running is queued for others, or failed."""
        self._lanes.pop(lane, None)
        for name, ticket in self._tickets.items():
            if ticket.lane == lane and ticket.state == "running":
                self._lost(name, ticket)
        await self._notify()

    async def no_lane_left(self, reason: str) -> None:
        """Jobs without an outcome are lost, now and from now on: they did not fail, and a resumed sweep runs them."""
        self._no_lane_left = reason
        self._queue.clear()
        for ticket in self._tickets.values():
            if ticket.outcome is None:
                ticket.lose(reason)
        await self._notify()

    async def close(self) -> None:
        """Send the lanes home after their current job."""
        self._closed = True
        await self._notify()

    def _lost(self, name: str, ticket: Ticket) -> None:
        if ticket.attempts < MOST_ATTEMPTS:
            ticket.state, ticket.lane, ticket.progress, ticket.events = "queued", None, {}, []
            self._queue.appendleft(name)
        else:
            ticket.state, ticket.outcome = "failed", {"status": "failed", "reason": f"its workers died {ticket.attempts} times"}

    async def _wait(self) -> None:
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait(), POLL_S)
            except TimeoutError:
                return

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
