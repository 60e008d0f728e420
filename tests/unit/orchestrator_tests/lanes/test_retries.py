"""How often a job starts again after its workers died, hung, or lost their node."""

import asyncio

import pytest

from orchestrator.lanes import job_queue
from orchestrator.lanes.job_queue import JobQueue
from orchestrator.lanes.retries import Retries
from tests.support.local_job_queue import follow
from trainables.events import Failed, RungDecision

KEEP = RungDecision(keep=True)


@pytest.fixture(autouse=True)
def short_polls(monkeypatch):
    monkeypatch.setattr(job_queue, "POLL_S", 0.01)


def scenario(steps, *arguments):
    """Runs `steps(queue)` on one event loop, as the actor does."""
    return asyncio.run(asyncio.wait_for(steps(JobQueue(*arguments)), 10))


async def outcome(queue, name):
    return (await follow(queue, name, 0))[2]


async def lose_workers(queue, times):
    """Gives job `a` to groups of two workers, on nodes `here` and `spot`, that die one after another."""
    for number in range(times):
        await queue.lane_ready("lane0", f"generation {number}", [("here", "rank 0"), ("spot", "rank 1")])
        if await queue.next_job("lane0", f"generation {number}", 0) is None:
            return
    await queue.lane_ready("lane0", "last")


async def submit_job(queue):
    await queue.submit("a", {"name": "a"})


def test_job_fails_when_its_workers_died_too_often():
    async def steps(queue):
        await submit_job(queue)
        await lose_workers(queue, times=3)
        return await outcome(queue, "a")

    reason = "its workers died; used up: 3 of 3 attempts, 0 of 20 preemptions"
    assert scenario(steps, Retries(attempts=3), lambda: {"here", "spot"}) == Failed(reason)


def test_node_that_went_away_costs_no_attempt():
    async def steps(queue):
        await submit_job(queue)
        await lose_workers(queue, times=4)
        events, _, ended = await follow(queue, "a", 0)
        assert ended is None
        return events

    events = scenario(steps, Retries(attempts=1, preemptions=4), lambda: {"here"})
    assert [event.line for event in events] == [
        f"a node of its workers went away; it starts again (start {start})" for start in (2, 3, 4, 5)
    ]


def test_job_on_a_node_that_went_away_does_not_wait_for_its_lane_to_come_back():
    alive = {"here", "spot"}

    async def steps(queue):
        await submit_job(queue)
        await queue.lane_ready("lane0", "first", [("here", "rank 0"), ("spot", "rank 1")])
        await queue.next_job("lane0", "first", 0)
        await queue.check_nodes()
        assert (await queue.snapshot()).queued == []
        alive.discard("spot")
        await queue.check_nodes()
        await queue.lane_ready("lane1", "second", [("here", "rank 0")])
        return await queue.next_job("lane1", "second", 0), await queue.next_job("lane0", "first", 1)

    assert scenario(steps, Retries(), lambda: alive) == (("a", {"name": "a"}), None)


def test_job_fails_when_nodes_went_away_too_often():
    async def steps(queue):
        await submit_job(queue)
        await lose_workers(queue, times=3)
        return await outcome(queue, "a")

    reason = "a node of its workers went away; used up: 0 of 1 attempts, 3 of 2 preemptions"
    assert scenario(steps, Retries(attempts=1, preemptions=2), lambda: {"here"}) == Failed(reason)


def test_workers_of_a_quiet_job_are_returned_once_and_the_job_starts_again():
    async def steps(queue):
        workers = [("here", "rank 0"), ("here", "rank 1")]
        await queue.lane_ready("lane0", "first", workers)
        await submit_job(queue)
        await queue.next_job("lane0", "first", 0)
        assert await queue.hung(60) == []
        await asyncio.sleep(0.02)
        assert await queue.hung(0.01) == workers
        assert await queue.hung(0.01) == []
        await queue.lane_ready("lane0", "second", workers)
        return (await follow(queue, "a", 0))[0]

    (restart,) = scenario(steps, Retries(), lambda: {"here"})
    cause = "its workers hung (no sign of life for 0 s) and were killed"
    assert restart.line == f"{cause}; it starts again (start 2)"


def test_job_that_waits_for_a_decision_is_not_quiet():
    async def steps(queue):
        await queue.lane_ready("lane0", "first")
        await submit_job(queue)
        await queue.next_job("lane0", "first", 0)
        waiting = asyncio.create_task(queue.decision("a", 1))
        await asyncio.sleep(0.2)
        assert await queue.hung(0.15) == []
        await queue.decide("a", 1, KEEP)
        return await waiting

    assert scenario(steps) == KEEP
