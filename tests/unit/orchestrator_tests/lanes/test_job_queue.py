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
    """Runs `steps(queue)` on one event loop, as the actor does."""
    return asyncio.run(asyncio.wait_for(steps(JobQueue()), 10))


async def with_lane(queue, *jobs, lane="lane0", generation="first"):
    await queue.lane_ready(lane, generation)
    for job in jobs:
        await queue.submit(job, {"name": job})


async def outcome(queue, name):
    return (await follow(queue, name, 0))[2]


def test_every_rank_of_a_group_gets_the_same_jobs_in_the_order_of_submission():
    async def steps(queue):
        await with_lane(queue, "a", "b")
        first_rank = [await queue.next_job("lane0", "first", sequence) for sequence in (0, 1)]
        second_rank = [await queue.next_job("lane0", "first", sequence) for sequence in (0, 1)]
        return [first_rank, second_rank]

    assert scenario(steps) == [[("a", {"name": "a"}), ("b", {"name": "b"})]] * 2


def test_two_lanes_share_the_jobs():
    async def steps(queue):
        await with_lane(queue, "a", "b")
        await queue.lane_ready("lane1", "other")
        groups = ("lane0", "first"), ("lane1", "other")
        return [(await queue.next_job(*group, 0))[0] for group in groups]

    assert scenario(steps) == ["a", "b"]


def test_a_waiting_lane_gets_a_job_that_is_submitted_later():
    async def steps(queue):
        await queue.lane_ready("lane0", "first")
        waiting = asyncio.create_task(queue.next_job("lane0", "first", 0))
        await asyncio.sleep(0.03)
        assert not waiting.done()
        await queue.submit("late", {})
        return await waiting

    assert scenario(steps) == ("late", {})


def test_submitting_a_known_name_again_changes_nothing():
    async def steps(queue):
        await with_lane(queue, "a")
        await queue.next_job("lane0", "first", 0)
        await queue.submit("a", {"name": "another"})
        return await queue.snapshot()

    snapshot = scenario(steps)
    assert snapshot.queued == [] and list(snapshot.running) == ["a"]


def test_news_are_the_new_events_the_latest_progress_and_the_outcome():
    async def steps(queue):
        await with_lane(queue, "a")
        await queue.next_job("lane0", "first", 0)
        for event in (RUNG, StepDone(1, 9), StepDone(2, 9), LineLogged("x")):
            await queue.report("a", event)
        running = await follow(queue, "a", 1)
        await queue.finish("a", FINISHED)
        return running, await follow(queue, "a", 2)

    running, ended = scenario(steps)
    assert running == ([LineLogged("x")], StepDone(2, 9), None)
    assert ended == ([], StepDone(2, 9), FINISHED)


def test_news_are_empty_when_nothing_happens():
    async def steps(queue):
        await with_lane(queue, "a")
        return await follow(queue, "a", 0)

    assert scenario(steps) == ([], None, None)


def test_first_outcome_counts():
    async def steps(queue):
        await with_lane(queue, "a")
        await queue.next_job("lane0", "first", 0)
        await queue.finish("a", Failed("rank 1 broke"))
        await queue.finish("a", FINISHED)
        return await outcome(queue, "a")

    assert scenario(steps) == Failed("rank 1 broke")


def test_job_of_a_group_that_died_is_handed_to_the_next_group_from_its_start():
    async def steps(queue):
        await with_lane(queue, "a", "b")
        await queue.next_job("lane0", "first", 0)
        await queue.report("a", RUNG)
        await queue.report("a", StepDone(3, 9))
        await queue.lane_ready("lane0", "second")
        events, progress, outcome = await follow(queue, "a", 0)
        assert events == [RUNG, JobRestarted("its workers died; it starts again (start 2)")]
        assert (progress, outcome) == (None, None)
        return (await queue.next_job("lane0", "second", 0))[0]

    assert scenario(steps) == "a"


def test_other_lanes_keep_their_jobs_when_one_starts_again():
    async def steps(queue):
        await with_lane(queue, "a", "b")
        await queue.lane_ready("lane1", "other")
        await queue.next_job("lane0", "first", 0)
        await queue.next_job("lane1", "other", 0)
        await queue.lane_ready("lane0", "second")
        return await queue.snapshot()

    snapshot = scenario(steps)
    assert (snapshot.queued, list(snapshot.running)) == (["a"], ["b"])


def test_group_that_was_replaced_gets_no_more_jobs():
    async def steps(queue):
        await queue.lane_ready("lane0", "first")
        waiting = asyncio.create_task(queue.next_job("lane0", "first", 0))
        await asyncio.sleep(0)
        await queue.lane_ready("lane0", "second")
        await queue.submit("a", {})
        return await waiting, await queue.next_job("lane0", "second", 0)

    assert scenario(steps) == (None, ("a", {}))


def test_a_late_outcome_of_a_job_that_was_queued_again_takes_it_out_of_the_queue():
    async def steps(queue):
        await with_lane(queue, "a", "b")
        await queue.next_job("lane0", "first", 0)
        await queue.lane_ready("lane0", "second")
        await queue.finish("a", FINISHED)
        return (await queue.next_job("lane0", "second", 0))[0], await outcome(queue, "a")

    assert scenario(steps) == ("b", FINISHED)


def test_other_lanes_keep_their_jobs_when_one_ends():
    async def steps(queue):
        await with_lane(queue, "a", "b")
        await queue.lane_ready("lane1", "other")
        await queue.next_job("lane0", "first", 0)
        await queue.next_job("lane1", "other", 0)
        await queue.lane_ended("lane0")
        return await queue.snapshot()

    snapshot = scenario(steps)
    assert (snapshot.queued, list(snapshot.running), snapshot.lanes) == (["a"], ["b"], ["lane1"])


def test_jobs_are_lost_not_failed_when_no_lane_is_left():
    async def steps(queue):
        await with_lane(queue, "running", "queued", "done")
        await queue.next_job("lane0", "first", 0)
        await queue.finish("done", FINISHED)
        await queue.lane_ended("lane0")
        await queue.no_lane_left("no room")
        await queue.submit("later", {})
        return [await outcome(queue, name) for name in ("running", "queued", "later", "done")]

    lost = Lost("no room")
    assert scenario(steps) == [lost, lost, lost, FINISHED]


def test_closed_queue_ends_lanes_also_those_that_wait():
    async def steps(queue):
        await queue.lane_ready("lane0", "first")
        waiting = asyncio.create_task(queue.next_job("lane0", "first", 0))
        await asyncio.sleep(0)
        await queue.close()
        return await waiting

    assert scenario(steps) is None


def test_closed_queue_still_gives_slow_ranks_the_job_that_others_have():
    async def steps(queue):
        await with_lane(queue, "a")
        await queue.next_job("lane0", "first", 0)
        await queue.close()
        return await queue.next_job("lane0", "first", 0), await queue.next_job("lane0", "first", 1)

    assert scenario(steps) == (("a", {"name": "a"}), None)


def test_snapshot_shows_where_a_job_runs_and_how_far_it_is():
    async def steps(queue):
        await with_lane(queue, "a", "b")
        await queue.next_job("lane0", "first", 0)
        await queue.report("a", StepDone(3, 9, 0.5))
        return await queue.snapshot()

    snapshot = scenario(steps)
    assert (snapshot.running["a"].lane, snapshot.running["a"].progress) == ("lane0", StepDone(3, 9, 0.5))
    assert snapshot.running["a"].started_at > 0
    assert snapshot.queued == ["b"] and snapshot.lanes == ["lane0"]


async def wait_at_rung(queue, *, job="a", rung=1):
    """Lets a lane run `job` and wait for the decision about a rung."""
    await queue.next_job("lane0", "first", 0)
    waiting = asyncio.create_task(queue.decision(job, rung))
    await asyncio.sleep(0.03)
    assert not waiting.done()
    return waiting


def test_lane_waits_for_the_decision_about_its_rung():
    async def steps(queue):
        await with_lane(queue, "a", "b")
        waiting = await wait_at_rung(queue, rung=2)
        await queue.decide("a", 1, STOP)
        await queue.decide("b", 2, STOP)
        await asyncio.sleep(0.03)
        assert not waiting.done(), "took the decision about another rung or another job"
        await queue.decide("a", 2, KEEP)
        return await waiting

    assert scenario(steps) == KEEP


def test_first_decision_counts():
    async def steps(queue):
        await with_lane(queue, "a")
        await queue.decide("a", 1, KEEP)
        await queue.decide("a", 1, STOP)
        return await queue.decision("a", 1)

    assert scenario(steps) == KEEP


def test_decisions_outlive_the_group_that_requested_them():
    async def steps(queue):
        await with_lane(queue, "a")
        await queue.next_job("lane0", "first", 0)
        await queue.decide("a", 1, KEEP)
        await queue.lane_ready("lane0", "second")
        assert (await queue.next_job("lane0", "second", 0))[0] == "a"
        again = await queue.decision("a", 1)
        await queue.decide("a", 2, STOP)
        return again, await queue.decision("a", 2)

    assert scenario(steps) == (KEEP, STOP)


def test_decision_that_was_awaited_when_the_group_died_reaches_the_next_one():
    async def steps(queue):
        await with_lane(queue, "a")
        await wait_at_rung(queue)
        await queue.lane_ready("lane0", "second")
        await queue.next_job("lane0", "second", 0)
        await queue.decide("a", 1, KEEP)
        return await queue.decision("a", 1)

    assert scenario(steps) == KEEP


@pytest.mark.parametrize(
    "end",
    [
        lambda queue: queue.close(),
        lambda queue: queue.no_lane_left("no room"),
        lambda queue: queue.give_up("a", "the Tune actor died"),
        lambda queue: queue.finish("a", Failed("rank 1 broke")),
    ],
    ids=["closed", "no lane left", "given up", "failed"],
)
def test_job_whose_result_is_not_needed_any_more_ends_at_its_rung(end):
    async def steps(queue):
        await with_lane(queue, "a")
        waiting = await wait_at_rung(queue)
        await end(queue)
        return await waiting

    decision = scenario(steps)
    assert not decision.go_on and not decision.keep and decision.reason


def test_decision_is_returned_also_after_the_queue_has_closed():
    async def steps(queue):
        await with_lane(queue, "a")
        await queue.decide("a", 1, KEEP)
        await queue.close()
        return await queue.decision("a", 1), await queue.decision("a", 2)

    first, second = scenario(steps)
    assert first == KEEP and not second.go_on


def test_job_that_is_given_up_fails_and_goes_to_no_lane():
    async def steps(queue):
        await with_lane(queue, "a", "b")
        await queue.give_up("a", "the Tune actor died")
        return (
            await outcome(queue, "a"),
            (await queue.next_job("lane0", "first", 0))[0],
            await queue.snapshot(),
        )

    ended, handed_out, snapshot = scenario(steps)
    assert ended == Failed("the Tune actor died")
    assert handed_out == "b" and snapshot.queued == []


def test_job_that_is_given_up_before_it_was_queued_is_never_run():
    async def steps(queue):
        await with_lane(queue)
        await queue.give_up("a", "the Tune actor died")
        await queue.submit("a", {"name": "a"})
        return await outcome(queue, "a"), await queue.snapshot()

    ended, snapshot = scenario(steps)
    assert isinstance(ended, Failed) and snapshot.queued == [] and snapshot.running == {}


def test_job_that_is_given_up_is_not_run_again_when_its_workers_die():
    async def steps(queue):
        await with_lane(queue, "a")
        await queue.next_job("lane0", "first", 0)
        await queue.give_up("a", "the Tune actor died")
        await queue.lane_ready("lane0", "second")
        return await queue.snapshot()

    snapshot = scenario(steps)
    assert snapshot.queued == [] and snapshot.running == {}


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
