import asyncio
import re

import pytest

from orchestrator.lanes import job_queue
from orchestrator.lanes.job_queue import JobQueue
from tests.support.local_job_queue import follow
from tests.support.places import ROOT
from trainables.events import (
    Failed,
    Finished,
    JobRestarted,
    LineLogged,
    Lost,
    RungDecision,
    RungReached,
    StepDone,
)

FINISHED = Finished({"metrics": {}})
RUNG = RungReached(1, 4, {})
KEEP, STOP = RungDecision(keep=True), RungDecision(go_on=False, reason="ranks 7 of 9")


@pytest.fixture(autouse=True)
def short_polls(monkeypatch):
    monkeypatch.setattr(job_queue, "POLL_S", 0.01)


def scenario(steps):
    """Runs `steps(job_queue)` on one event loop, as the actor does."""
    return asyncio.run(asyncio.wait_for(steps(JobQueue()), 10))


async def with_lane(box, *jobs, lane="lane0", generation="first"):
    await box.lane_ready(lane, generation)
    for job in jobs:
        await box.submit(job, {"name": job})


async def outcome(box, name):
    return (await follow(box, name, 0))[2]


def test_every_rank_of_a_group_gets_the_same_jobs_in_the_order_of_submission():
    async def steps(box):
        await with_lane(box, "a", "b")
        return [[await box.next_job("lane0", "first", sequence) for sequence in (0, 1)] for _rank in range(2)]

    ranks = scenario(steps)
    assert ranks == [[("a", {"name": "a"}), ("b", {"name": "b"})]] * 2


def test_two_lanes_share_the_jobs():
    async def steps(box):
        await with_lane(box, "a", "b")
        await box.lane_ready("lane1", "other")
        return [(await box.next_job(*who, 0))[0] for who in (("lane0", "first"), ("lane1", "other"))]

    assert scenario(steps) == ["a", "b"]


def test_a_waiting_lane_gets_a_job_that_is_submitted_later():
    async def steps(box):
        await box.lane_ready("lane0", "first")
        waiting = asyncio.create_task(box.next_job("lane0", "first", 0))
        await asyncio.sleep(0.03)
        assert not waiting.done()
        await box.submit("late", {})
        return await waiting

    assert scenario(steps) == ("late", {})


def test_submitting_a_known_ticket_again_changes_nothing():
    async def steps(box):
        await with_lane(box, "a")
        await box.next_job("lane0", "first", 0)
        await box.submit("a", {"name": "another"})
        return await box.snapshot()

    seen = scenario(steps)
    assert seen.queued == [] and list(seen.running) == ["a"]


def test_follow_gives_new_events_the_latest_progress_and_the_outcome():
    async def steps(box):
        await with_lane(box, "a")
        await box.next_job("lane0", "first", 0)
        for event in (
            RUNG,
            StepDone(1, 9),
            StepDone(2, 9),
            LineLogged("x"),
        ):
            await box.report("a", event)
        running = await follow(box, "a", 1)
        await box.finish("a", FINISHED)
        return running, await follow(box, "a", 2)

    running, ended = scenario(steps)
    assert running == ([LineLogged("x")], StepDone(2, 9), None)
    assert ended == ([], StepDone(2, 9), FINISHED)


def test_follow_comes_back_with_nothing_when_nothing_happens():
    async def steps(box):
        await with_lane(box, "a")
        return await follow(box, "a", 0)

    assert scenario(steps) == ([], None, None)


def test_first_outcome_counts():
    async def steps(box):
        await with_lane(box, "a")
        await box.next_job("lane0", "first", 0)
        await box.finish("a", Failed("rank 1 broke"))
        await box.finish("a", FINISHED)
        return await outcome(box, "a")

    assert scenario(steps) == Failed("rank 1 broke")


def test_job_of_a_group_that_died_is_handed_to_the_next_group_from_its_start():
    async def steps(box):
        await with_lane(box, "a", "b")
        await box.next_job("lane0", "first", 0)
        await box.report("a", RUNG)
        await box.report("a", StepDone(3, 9))
        await box.lane_ready("lane0", "second")
        events, progress, outcome = await follow(box, "a", 0)
        assert events == [RUNG, JobRestarted("its workers died; it starts again (start 2)")]
        assert (progress, outcome) == (None, None)
        return (await box.next_job("lane0", "second", 0))[0]

    assert scenario(steps) == "a"


def test_other_lanes_keep_their_jobs_when_one_starts_again():
    async def steps(box):
        await with_lane(box, "a", "b")
        await box.lane_ready("lane1", "other")
        await box.next_job("lane0", "first", 0)
        await box.next_job("lane1", "other", 0)
        await box.lane_ready("lane0", "second")
        return await box.snapshot()

    seen = scenario(steps)
    assert (seen.queued, list(seen.running)) == (["a"], ["b"])


def test_group_that_was_replaced_goes_home():
    async def steps(box):
        await box.lane_ready("lane0", "first")
        waiting = asyncio.create_task(box.next_job("lane0", "first", 0))
        await asyncio.sleep(0)
        await box.lane_ready("lane0", "second")
        await box.submit("a", {})
        return await waiting, await box.next_job("lane0", "second", 0)

    assert scenario(steps) == (None, ("a", {}))


def test_a_late_outcome_of_a_job_that_was_queued_again_takes_it_out_of_the_queue():
    async def steps(box):
        await with_lane(box, "a", "b")
        await box.next_job("lane0", "first", 0)
        await box.lane_ready("lane0", "second")
        await box.finish("a", FINISHED)
        return (await box.next_job("lane0", "second", 0))[0], await outcome(box, "a")

    assert scenario(steps) == ("b", FINISHED)


def test_other_lanes_keep_their_jobs_when_one_ends():
    async def steps(box):
        await with_lane(box, "a", "b")
        await box.lane_ready("lane1", "other")
        await box.next_job("lane0", "first", 0)
        await box.next_job("lane1", "other", 0)
        await box.lane_ended("lane0")
        return await box.snapshot()

    seen = scenario(steps)
    assert (seen.queued, list(seen.running), seen.lanes) == (["a"], ["b"], ["lane1"])


def test_jobs_are_lost_not_failed_when_no_lane_is_left():
    async def steps(box):
        await with_lane(box, "running", "queued", "done")
        await box.next_job("lane0", "first", 0)
        await box.finish("done", FINISHED)
        await box.lane_ended("lane0")
        await box.no_lane_left("no room")
        await box.submit("later", {})
        return [await outcome(box, name) for name in ("running", "queued", "later", "done")]

    lost = Lost("no room")
    assert scenario(steps) == [lost, lost, lost, FINISHED]


def test_closed_mailbox_sends_lanes_home_also_those_that_wait():
    async def steps(box):
        await box.lane_ready("lane0", "first")
        waiting = asyncio.create_task(box.next_job("lane0", "first", 0))
        await asyncio.sleep(0)
        await box.close()
        return await waiting

    assert scenario(steps) is None


def test_closed_mailbox_still_gives_slow_ranks_the_job_that_others_have():
    async def steps(box):
        await with_lane(box, "a")
        await box.next_job("lane0", "first", 0)
        await box.close()
        return await box.next_job("lane0", "first", 0), await box.next_job("lane0", "first", 1)

    assert scenario(steps) == (("a", {"name": "a"}), None)


def test_snapshot_tells_where_a_job_runs_and_how_far_it_is():
    async def steps(box):
        await with_lane(box, "a", "b")
        await box.next_job("lane0", "first", 0)
        await box.report("a", StepDone(3, 9, 0.5))
        return await box.snapshot()

    seen = scenario(steps)
    assert (seen.running["a"].lane, seen.running["a"].progress) == ("lane0", StepDone(3, 9, 0.5))
    assert seen.running["a"].started_at > 0
    assert seen.queued == ["b"] and seen.lanes == ["lane0"]


async def asking(box, *, job="a", rung=1):
    """A lane that runs `job` and waits for the verdict on a rung."""
    await box.next_job("lane0", "first", 0)
    waiting = asyncio.create_task(box.decision(job, rung))
    await asyncio.sleep(0.03)
    assert not waiting.done()
    return waiting


def test_lane_waits_for_the_verdict_on_its_rung():
    async def steps(box):
        await with_lane(box, "a", "b")
        waiting = await asking(box, rung=2)
        await box.decide("a", 1, STOP)
        await box.decide("b", 2, STOP)
        await asyncio.sleep(0.03)
        assert not waiting.done(), "took the verdict on another rung, or another job"
        await box.decide("a", 2, KEEP)
        return await waiting

    assert scenario(steps) == KEEP


def test_verdict_that_came_first_counts():
    async def steps(box):
        await with_lane(box, "a")
        await box.decide("a", 1, KEEP)
        await box.decide("a", 1, STOP)
        return await box.decision("a", 1)

    assert scenario(steps) == KEEP


def test_verdicts_outlive_the_group_that_asked_for_them():
    async def steps(box):
        await with_lane(box, "a")
        await box.next_job("lane0", "first", 0)
        await box.decide("a", 1, KEEP)
        await box.lane_ready("lane0", "second")
        assert (await box.next_job("lane0", "second", 0))[0] == "a"
        again = await box.decision("a", 1)
        await box.decide("a", 2, STOP)
        return again, await box.decision("a", 2)

    assert scenario(steps) == (KEEP, STOP)


def test_verdict_that_was_awaited_when_the_group_died_reaches_the_next_one():
    async def steps(box):
        await with_lane(box, "a")
        await asking(box)
        await box.lane_ready("lane0", "second")
        await box.next_job("lane0", "second", 0)
        await box.decide("a", 1, KEEP)
        return await box.decision("a", 1)

    assert scenario(steps) == KEEP


@pytest.mark.parametrize(
    "end",
    [
        lambda box: box.close(),
        lambda box: box.no_lane_left("no room"),
        lambda box: box.give_up("a", "the lease died"),
        lambda box: box.finish("a", Failed("rank 1 broke")),
    ],
    ids=["closed", "no lane left", "given up", "failed"],
)
def test_lane_is_told_to_end_a_job_that_nobody_waits_for_any_more(end):
    async def steps(box):
        await with_lane(box, "a")
        waiting = await asking(box)
        await end(box)
        return await waiting

    decision = scenario(steps)
    assert not decision.go_on and not decision.keep and decision.reason


def test_verdict_is_given_also_after_the_mailbox_closed():
    async def steps(box):
        await with_lane(box, "a")
        await box.decide("a", 1, KEEP)
        await box.close()
        return await box.decision("a", 1), await box.decision("a", 2)

    first, second = scenario(steps)
    assert first == KEEP and not second.go_on


def test_job_that_is_given_up_fails_and_is_handed_to_nobody():
    async def steps(box):
        await with_lane(box, "a", "b")
        await box.give_up("a", "the lease died")
        return await outcome(box, "a"), (await box.next_job("lane0", "first", 0))[0], await box.snapshot()

    ended, handed_out, seen = scenario(steps)
    assert ended == Failed("the lease died")
    assert handed_out == "b" and seen.queued == []


def test_job_that_is_given_up_before_it_was_queued_is_never_run():
    async def steps(box):
        await with_lane(box)
        await box.give_up("a", "the lease died")
        await box.submit("a", {"name": "a"})
        return await outcome(box, "a"), await box.snapshot()

    ended, seen = scenario(steps)
    assert isinstance(ended, Failed) and seen.queued == [] and seen.running == {}


def test_job_that_is_given_up_is_not_run_again_when_its_workers_die():
    async def steps(box):
        await with_lane(box, "a")
        await box.next_job("lane0", "first", 0)
        await box.give_up("a", "the lease died")
        await box.lane_ready("lane0", "second")
        return await box.snapshot()

    seen = scenario(steps)
    assert seen.queued == [] and seen.running == {}


def test_everything_that_is_called_through_the_actor_handle_is_a_method():
    """Ray looks a name up only when it is called: a renamed method once went unseen until a lane measured."""
    calls = {
        name
        for package in ("orchestrator", "trainables")
        for path in (ROOT / package).rglob("*.py")
        for name in re.findall(r"job_queue\.(\w+)\.remote\b", path.read_text())
    }
    assert len(calls) > 10
    assert [name for name in calls if not callable(getattr(JobQueue, name, None))] == []
