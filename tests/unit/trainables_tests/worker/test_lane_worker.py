from types import SimpleNamespace
from typing import Any

import pytest
import torch

from search_spaces.settings.model_settings import ModelSettings
from trainables.events import (
    Failed,
    Finished,
    LineLogged,
    RungDecision,
    RungReached,
    StepDone,
    Stopped,
    TrialFailedError,
)
from trainables.jobs import EvaluateJob
from trainables.worker import lane_worker
from trainables.worker.lane_worker import PROGRESS_EVERY_S, Reporter, lane_loop


class Remote:
    """An actor's method that answers at once."""

    def __init__(self, method):
        self.remote = method


class JobQueue:
    """The pool's mailbox in this process: hands out jobs and keeps what lanes say."""

    def __init__(self, jobs=()):
        self.jobs = list(jobs)
        self.asked: list[Any] = []
        self.ready: list[Any] = []
        self.reports: list[Any] = []
        self.outcomes: dict[str, list[Any]] = {}
        self.judged: list[Any] = []
        self.decision = Remote(self._verdict)
        self.lane_ready = Remote(lambda *args: self.ready.append(args))
        self.next_job = Remote(self._next_job)
        self.report = Remote(lambda ticket, event: self.reports.append((ticket, event)))
        self.finish = Remote(lambda ticket, outcome: self.outcomes.setdefault(ticket, []).append(outcome))

    def _next_job(self, lane, generation, sequence):
        self.asked.append((lane, generation, sequence))
        return self.jobs[sequence] if sequence < len(self.jobs) else None

    def _verdict(self, ticket, rung):
        self.judged.append((ticket, rung))
        return RungDecision(go_on=False, reason=f"{ticket} ends at rung {rung}")


def job(name):
    return EvaluateJob(name=name, model=ModelSettings(base="scratch"), folder="/m", output="/o").model_dump(
        mode="json"
    )


@pytest.fixture
def serve(monkeypatch):
    """Runs the loop on one rank, without Ray or a process group; `work(job, report, decide)` stands for the
    job runner.

    What rank 0 would broadcast to another rank is in `heard`, in order; what the rank broadcasts is added to
    `sent`.
    """

    def run(job_queue, work, rank=0, heard=(), sent=None):
        runners = []

        class Runner:
            def __init__(self):
                runners.append(self)

            def run(self, job, report, decide):
                return work(job, report, decide)

        from_rank_0 = iter(["generation of rank 0", *heard])

        def broadcast(items):
            if rank:
                items[0] = next(from_rank_0)
            elif sent is not None:
                sent.append(items[0])

        def gather(found, mine):
            found[:] = [mine, ("node 1", "worker 1")]

        here = SimpleNamespace(get_node_id=lambda: f"node {rank}", current_actor=f"worker {rank}")
        monkeypatch.setattr(
            lane_worker, "ray", SimpleNamespace(get=lambda answer: answer, get_runtime_context=lambda: here)
        )
        group = {"get_rank": lambda: rank, "get_world_size": lambda: 2, "all_gather_object": gather}
        monkeypatch.setattr(lane_worker, "dist", SimpleNamespace(**group, broadcast_object_list=broadcast))
        try:
            lane_loop({"job_queue": job_queue, "lane": "lane-1", "threads": torch.get_num_threads()}, Runner)
        finally:
            assert len(runners) == 1  # one warm runner serves all jobs

    return run


def test_lane_serves_jobs_in_order_until_the_mailbox_closes(serve):
    job_queue = JobQueue([("a", job("first")), ("b", job("second"))])
    serve(job_queue, lambda job, report, decide: Finished({"name": job.name}))
    assert job_queue.outcomes == {
        "a": [Finished({"name": "first"})],
        "b": [Finished({"name": "second"})],
    }
    assert [sequence for _, _, sequence in job_queue.asked] == [0, 1, 2]


def test_lane_announces_itself_once_under_one_generation(serve):
    job_queue = JobQueue([("a", job("first"))])
    serve(job_queue, lambda job, report, decide: Finished())
    ((lane, generation, workers),) = job_queue.ready
    assert {asked[:2] for asked in job_queue.asked} == {(lane, generation)}
    assert workers == [("node 0", "worker 0"), ("node 1", "worker 1")]
    again = JobQueue()
    serve(again, lambda job, report, decide: Finished())
    assert again.ready[0][0] == job_queue.ready[0][0] and again.ready != job_queue.ready


def test_other_ranks_follow_the_generation_of_rank_0_and_say_nothing(serve):
    job_queue = JobQueue([("a", job("first"))])
    serve(job_queue, lambda job, report, decide: Finished(), rank=1)
    assert job_queue.ready == [] and job_queue.outcomes == {}
    assert {generation for _, generation, _ in job_queue.asked} == {"generation of rank 0"}


def test_trial_that_fails_by_its_settings_leaves_the_lane_warm(serve):
    def work(job, report, decide):
        if job.name == "bad":
            raise TrialFailedError("loss is nan after step 3")
        return Finished({"name": job.name})

    job_queue = JobQueue([("a", job("bad")), ("b", job("good"))])
    serve(job_queue, work)
    assert job_queue.outcomes == {
        "a": [Failed("loss is nan after step 3")],
        "b": [Finished({"name": "good"})],
    }


@pytest.mark.parametrize("rank", [0, 1])
def test_any_other_failure_is_told_by_the_rank_it_struck_and_ends_the_lane(serve, rank):
    def work(job, report, decide):
        raise ValueError("a shard went missing\nlong traceback")

    job_queue = JobQueue([("a", job("bad")), ("b", job("never"))])
    with pytest.raises(ValueError, match="a shard went missing"):
        serve(job_queue, work, rank)
    assert job_queue.outcomes == {"a": [Failed("ValueError: a shard went missing")]}


def test_job_that_cannot_be_read_is_a_failure_of_that_job(serve):
    job_queue = JobQueue([("a", {"kind": "export"})])
    with pytest.raises(ValueError, match="export"):
        serve(job_queue, lambda job, report, decide: Finished())
    assert isinstance(job_queue.outcomes["a"][0], Failed)


def test_outcome_is_what_the_runner_returns(serve):
    stopped = Stopped("ranks 7 of 9", {"metrics": {}})
    job_queue = JobQueue([("a", job("trial"))])
    serve(job_queue, lambda job, report, decide: stopped)
    assert job_queue.outcomes == {"a": [stopped]}


def test_verdict_is_asked_for_by_rank_0_and_broadcast(serve):
    job_queue, sent, decisions = JobQueue([("a", job("first")), ("b", job("second"))]), [], []
    serve(job_queue, lambda job, report, decide: decisions.append(decide(2, 4)) or Finished(), sent=sent)
    assert job_queue.judged == [("a", 2), ("b", 2)]
    assert [decision.reason for decision in decisions] == ["a ends at rung 2", "b ends at rung 2"]
    assert sent[1:] == decisions


def test_other_ranks_hear_the_verdict_and_ask_nobody(serve):
    job_queue, decision, decisions = JobQueue([("a", job("first"))]), RungDecision(keep=True), []
    serve(
        job_queue,
        lambda job, report, decide: decisions.append(decide(1, 4)) or Finished(),
        rank=1,
        heard=[decision],
    )
    assert decisions == [decision] and job_queue.judged == []


def test_reports_carry_the_ticket_of_their_job(serve):
    job_queue = JobQueue([("a", job("first")), ("b", job("second"))])
    serve(job_queue, lambda job, report, decide: report(LineLogged(job.name)) or Finished())
    assert job_queue.reports == [
        ("a", LineLogged("first")),
        ("b", LineLogged("second")),
    ]


def progress(step, steps=100):
    return StepDone(step, steps, 0.0)


def test_progress_is_thinned_but_never_its_last_step(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(lane_worker, "time", SimpleNamespace(monotonic=lambda: clock.now))
    job_queue = JobQueue()
    reporter = Reporter(job_queue, "a")
    for step in range(1, 101):
        reporter(progress(step))
        clock.now += PROGRESS_EVERY_S / 10
    steps = [event.step for _, event in job_queue.reports]
    assert steps[0] == 1 and steps[-1] == 100
    assert 10 <= len(steps) <= 12


def test_rungs_and_log_lines_are_never_held_back():
    job_queue = JobQueue()
    reporter = Reporter(job_queue, "a")
    events = [RungReached(1, 2, {}), LineLogged("x"), RungReached(2, 2, {})]
    for event in events:
        reporter(event)
    assert [event for _, event in job_queue.reports] == events
