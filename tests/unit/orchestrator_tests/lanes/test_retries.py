"""What a job is forgiven when its workers die, hang, or lose their node."""

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
    """Runs `steps(job_queue)` on one event loop, as the actor does."""
    return asyncio.run(asyncio.wait_for(steps(JobQueue(*arguments)), 10))


async def outcome(box, name):
    return (await follow(box, name, 0))[2]


async def lose_workers(box, times):
    """Hands job `a` to groups of two workers, on nodes `here` and `spot`, that go one after another."""
    for number in range(times):
        await box.lane_ready("lane0", f"generation {number}", [("here", "rank 0"), ("spot", "rank 1")])
        if await box.next_job("lane0", f"generation {number}", 0) is None:
            return
    await box.lane_ready("lane0", "last")


async def submitted(box):
    await box.submit("a", {"name": "a"})
    return box


def test_job_fails_when_its_workers_died_too_often():
    async def steps(box):
        await lose_workers(await submitted(box), times=3)
        return await outcome(box, "a")

    reason = "its workers died; used up: 3 of 3 attempts, 0 of 20 preemptions"
    assert scenario(steps, Retries(attempts=3), lambda: {"here", "spot"}) == Failed(reason)


def test_node_that_went_away_costs_no_attempt():
    async def steps(box):
        await lose_workers(await submitted(box), times=4)
        events, _, ended = await follow(box, "a", 0)
        assert ended is None
        return events

    lines = [event.line for event in scenario(steps, Retries(attempts=1, preemptions=4), lambda: {"here"})]
    assert lines == [
        f"a node of its workers went away; it starts again (start {start})" for start in (2, 3, 4, 5)
    ]


def test_job_on_a_node_that_went_away_does_not_wait_for_its_lane_to_come_back():
    alive = {"here", "spot"}

    async def steps(box):
        await submitted(box)
        await box.lane_ready("lane0", "first", [("here", "rank 0"), ("spot", "rank 1")])
        await box.next_job("lane0", "first", 0)
        await box.check_nodes()
        assert (await box.snapshot()).queued == []
        alive.discard("spot")
        await box.check_nodes()
        await box.lane_ready("lane1", "second", [("here", "rank 0")])
        return await box.next_job("lane1", "second", 0), await box.next_job("lane0", "first", 1)

    assert scenario(steps, Retries(), lambda: alive) == (("a", {"name": "a"}), None)


def test_job_fails_when_nodes_went_away_too_often():
    async def steps(box):
        await lose_workers(await submitted(box), times=3)
        return await outcome(box, "a")

    reason = "a node of its workers went away; used up: 0 of 1 attempts, 3 of 2 preemptions"
    assert scenario(steps, Retries(attempts=1, preemptions=2), lambda: {"here"}) == Failed(reason)


def test_workers_of_a_quiet_job_are_named_once_and_the_job_starts_again():
    async def steps(box):
        workers = [("here", "rank 0"), ("here", "rank 1")]
        await box.lane_ready("lane0", "first", workers)
        await (await submitted(box)).next_job("lane0", "first", 0)
        assert await box.hung(60) == []
        await asyncio.sleep(0.02)
        assert await box.hung(0.01) == workers
        assert await box.hung(0.01) == []
        await box.lane_ready("lane0", "second", workers)
        return (await follow(box, "a", 0))[0]

    (again,) = scenario(steps, Retries(), lambda: {"here"})
    assert (
        again.line == "its workers hung (no sign of life for 0 s) and were killed; it starts again (start 2)"
    )


def test_job_that_waits_for_its_verdict_is_not_quiet():
    async def steps(box):
        await box.lane_ready("lane0", "first")
        await (await submitted(box)).next_job("lane0", "first", 0)
        waiting = asyncio.create_task(box.decision("a", 1))
        await asyncio.sleep(0.2)
        assert await box.hung(0.15) == []
        await box.decide("a", 1, KEEP)
        return await waiting

    assert scenario(steps) == KEEP
