import importlib
import sys
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
from trainables.worker.lane_worker import PROGRESS_EVERY_S, Reporter, lane_loop, packages_hidden


class Remote:
    """A method of an actor, which is called at once."""

    def __init__(self, method):
        self.remote = method


class JobQueue:
    """A job queue in this process that records the calls of lanes."""

    def __init__(self, jobs=()):
        self.jobs = list(jobs)
        self.requests: list[Any] = []
        self.ready: list[Any] = []
        self.reports: list[Any] = []
        self.outcomes: dict[str, list[Any]] = {}
        self.decided: list[Any] = []
        self.decision = Remote(self._decide)
        self.lane_ready = Remote(lambda *args: self.ready.append(args))
        self.next_job = Remote(self._next_job)
        self.report = Remote(lambda job_name, event: self.reports.append((job_name, event)))
        self.finish = Remote(self._finish)

    def _next_job(self, lane, generation, sequence):
        self.requests.append((lane, generation, sequence))
        return self.jobs[sequence] if sequence < len(self.jobs) else None

    def _finish(self, job_name, outcome):
        self.outcomes.setdefault(job_name, []).append(outcome)

    def _decide(self, job_name, rung):
        self.decided.append((job_name, rung))
        return RungDecision(go_on=False, reason=f"{job_name} ends at rung {rung}")


def job(name):
    evaluate_job = EvaluateJob(name=name, model=ModelSettings(base="scratch"), folder="/m", output="/o")
    return evaluate_job.model_dump(mode="json")


@pytest.fixture
def serve(monkeypatch):
    """Runs the loop on one rank, without Ray or a process group.

    `work(job, report, decide)` stands in for the job runner. `received` is what rank 0 broadcasts to another
    rank after the generation, in order; what rank 0 itself broadcasts is added to `sent`.
    """

    def run(job_queue, work, rank=0, received=(), sent=None):
        runners = []

        class Runner:
            def __init__(self):
                runners.append(self)

            def run(self, job, report, decide):
                return work(job, report, decide)

        from_rank_0 = iter(["generation of rank 0", *received])

        def broadcast(items):
            if rank:
                items[0] = next(from_rank_0)
            elif sent is not None:
                sent.append(items[0])

        def gather(found, mine):
            found[:] = [mine, ("node 1", "worker 1")]

        context = SimpleNamespace(get_node_id=lambda: f"node {rank}", current_actor=f"worker {rank}")
        monkeypatch.setattr(
            lane_worker,
            "ray",
            SimpleNamespace(get=lambda result: result, get_runtime_context=lambda: context),
        )
        group = {"get_rank": lambda: rank, "get_world_size": lambda: 2, "all_gather_object": gather}
        monkeypatch.setattr(lane_worker, "dist", SimpleNamespace(**group, broadcast_object_list=broadcast))
        try:
            lane_loop({"job_queue": job_queue, "lane": "lane-1", "threads": torch.get_num_threads()}, Runner)
        finally:
            assert len(runners) == 1, "one warm runner serves all jobs"

    return run


def test_lane_runs_jobs_in_order_until_the_queue_closes(serve):
    job_queue = JobQueue([("a", job("first")), ("b", job("second"))])
    serve(job_queue, lambda job, report, decide: Finished({"name": job.name}))
    assert job_queue.outcomes == {
        "a": [Finished({"name": "first"})],
        "b": [Finished({"name": "second"})],
    }
    assert [sequence for _, _, sequence in job_queue.requests] == [0, 1, 2]


def test_lane_announces_itself_once_under_one_generation(serve):
    job_queue = JobQueue([("a", job("first"))])
    serve(job_queue, lambda job, report, decide: Finished())
    ((lane, generation, workers),) = job_queue.ready
    assert {request[:2] for request in job_queue.requests} == {(lane, generation)}
    assert workers == [("node 0", "worker 0"), ("node 1", "worker 1")]
    other = JobQueue()
    serve(other, lambda job, report, decide: Finished())
    assert other.ready[0][0] == lane and other.ready[0][1] != generation


def test_other_ranks_use_the_generation_of_rank_0_and_send_nothing(serve):
    job_queue = JobQueue([("a", job("first"))])
    serve(job_queue, lambda job, report, decide: Finished(), rank=1)
    assert job_queue.ready == [] and job_queue.outcomes == {}
    assert {generation for _, generation, _ in job_queue.requests} == {"generation of rank 0"}


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
def test_any_other_failure_is_reported_by_its_rank_and_ends_the_lane(serve, rank):
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


def test_decision_is_requested_by_rank_0_and_broadcast(serve):
    job_queue, sent, decisions = JobQueue([("a", job("first")), ("b", job("second"))]), [], []
    serve(job_queue, lambda job, report, decide: decisions.append(decide(2, 4)) or Finished(), sent=sent)
    assert job_queue.decided == [("a", 2), ("b", 2)]
    assert [decision.reason for decision in decisions] == ["a ends at rung 2", "b ends at rung 2"]
    assert sent[1:] == decisions


def test_other_ranks_receive_the_decision_and_request_none(serve):
    job_queue, decision, decisions = JobQueue([("a", job("first"))]), RungDecision(keep=True), []
    serve(
        job_queue,
        lambda job, report, decide: decisions.append(decide(1, 4)) or Finished(),
        rank=1,
        received=[decision],
    )
    assert decisions == [decision] and job_queue.decided == []


def test_reports_carry_the_name_of_their_job(serve):
    job_queue = JobQueue([("a", job("first")), ("b", job("second"))])
    serve(job_queue, lambda job, report, decide: report(LineLogged(job.name)) or Finished())
    assert job_queue.reports == [
        ("a", LineLogged("first")),
        ("b", LineLogged("second")),
    ]


def progress(step, steps=100):
    return StepDone(step, steps, 0.0)


def test_only_some_steps_are_reported_but_always_the_last_one(monkeypatch):
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


def test_all_rungs_and_log_lines_are_reported():
    job_queue = JobQueue()
    reporter = Reporter(job_queue, "a")
    events = [RungReached(1, 2, {}), LineLogged("x"), RungReached(2, 2, {})]
    for event in events:
        reporter(event)
    assert [event for _, event in job_queue.reports] == events


def test_hidden_package_cannot_be_imported_during_the_block_alone(tmp_path, monkeypatch):
    (tmp_path / "optional_package.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with packages_hidden("optional_package"), pytest.raises(ImportError):
        importlib.import_module("optional_package")
    assert importlib.import_module("optional_package") is sys.modules.pop("optional_package")


def test_package_that_is_imported_already_is_not_hidden():
    with packages_hidden("torch"):
        assert sys.modules["torch"] is torch


def test_hidden_packages_come_back_after_an_error():
    with pytest.raises(RuntimeError), packages_hidden("optional_package"):
        raise RuntimeError
    assert "optional_package" not in sys.modules
