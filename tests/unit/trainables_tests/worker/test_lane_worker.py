from types import SimpleNamespace
from typing import Any

import pytest
import torch

from search_spaces.settings.model_settings import ModelSettings
from trainables.events import TrialFailedError, Verdict
from trainables.jobs import MeasureJob
from trainables.worker import lane_worker
from trainables.worker.lane_worker import PROGRESS_EVERY_S, Reporter, lane_loop


class Remote:
    """An actor's method that answers at once."""

    def __init__(self, method):
        self.remote = method


class Mailbox:
    """The pool's mailbox in this process: hands out jobs and keeps what lanes say."""

    def __init__(self, jobs=()):
        self.jobs = list(jobs)
        self.asked: list[Any] = []
        self.ready: list[Any] = []
        self.reports: list[Any] = []
        self.outcomes: dict[str, list[Any]] = {}
        self.judged: list[Any] = []
        self.verdict = Remote(self._verdict)
        self.lane_ready = Remote(lambda *args: self.ready.append(args))
        self.next_job = Remote(self._next_job)
        self.report = Remote(lambda ticket, event: self.reports.append((ticket, event)))
        self.finish = Remote(lambda ticket, outcome: self.outcomes.setdefault(ticket, []).append(outcome))

    def _next_job(self, lane, generation, sequence):
        self.asked.append((lane, generation, sequence))
        return self.jobs[sequence] if sequence < len(self.jobs) else None

    def _verdict(self, ticket, rung):
        self.judged.append((ticket, rung))
        return Verdict(go_on=False, reason=f"{ticket} ends at rung {rung}")


def job(name):
    return MeasureJob(name=name, model=ModelSettings(base="scratch"), folder="/m", output="/o").model_dump(mode="json")


@pytest.fixture
def serve(monkeypatch):
    """Runs the loop on one rank, without Ray or a process group; `work(job, report, judge)` stands for the job runner.

    What rank 0 would broadcast to another rank is in `heard`, in order; what the rank broadcasts is added to `sent`.
    """

    def run(mailbox, work, rank=0, heard=(), sent=None):
        runners = []

        class Runner:
            def __init__(self):
                runners.append(self)

            def run(self, job, report, judge):
                return work(job, report, judge)

        from_rank_0 = iter(["generation of rank 0", *heard])

        def broadcast(items):
            if rank:
                items[0] = next(from_rank_0)
            elif sent is not None:
                sent.append(items[0])

        def gather(found, mine):
            found[:] = [mine, ("node 1", "worker 1")]

        here = SimpleNamespace(get_node_id=lambda: f"node {rank}", current_actor=f"worker {rank}")
        monkeypatch.setattr(lane_worker, "ray", SimpleNamespace(get=lambda answer: answer, get_runtime_context=lambda: here))
        group = {"get_rank": lambda: rank, "get_world_size": lambda: 2, "all_gather_object": gather}
        monkeypatch.setattr(lane_worker, "dist", SimpleNamespace(**group, broadcast_object_list=broadcast))
        try:
            lane_loop({"mailbox": mailbox, "lane": "lane-1", "threads": torch.get_num_threads()}, Runner)
        finally:
            assert len(runners) == 1  # one warm runner serves all jobs

    return run


def test_lane_serves_jobs_in_order_until_the_mailbox_closes(serve):
    mailbox = Mailbox([("a", job("first")), ("b", job("second"))])
    serve(mailbox, lambda job, report, judge: {"name": job.name})
    assert mailbox.outcomes == {"a": [{"status": "finished", "name": "first"}], "b": [{"status": "finished", "name": "second"}]}
    assert [sequence for _, _, sequence in mailbox.asked] == [0, 1, 2]


def test_lane_announces_itself_once_under_one_generation(serve):
    mailbox = Mailbox([("a", job("first"))])
    serve(mailbox, lambda job, report, judge: {})
    ((lane, generation, workers),) = mailbox.ready
    assert {asked[:2] for asked in mailbox.asked} == {(lane, generation)}
    assert workers == [("node 0", "worker 0"), ("node 1", "worker 1")]
    again = Mailbox()
    serve(again, lambda job, report, judge: {})
    assert again.ready[0][0] == mailbox.ready[0][0] and again.ready != mailbox.ready


def test_other_ranks_follow_the_generation_of_rank_0_and_say_nothing(serve):
    mailbox = Mailbox([("a", job("first"))])
    serve(mailbox, lambda job, report, judge: {}, rank=1)
    assert mailbox.ready == [] and mailbox.outcomes == {}
    assert {generation for _, generation, _ in mailbox.asked} == {"generation of rank 0"}


def test_trial_that_fails_by_its_settings_leaves_the_lane_warm(serve):
    def work(job, report, judge):
        if job.name == "bad":
            raise TrialFailedError("loss is nan after step 3")
        return {"name": job.name}

    mailbox = Mailbox([("a", job("bad")), ("b", job("good"))])
    serve(mailbox, work)
    assert mailbox.outcomes == {
        "a": [{"status": "failed", "reason": "loss is nan after step 3"}],
        "b": [{"status": "finished", "name": "good"}],
    }


@pytest.mark.parametrize("rank", [0, 1])
def test_any_other_failure_is_told_by_the_rank_it_struck_and_ends_the_lane(serve, rank):
    def work(job, report, judge):
        raise ValueError("a shard went missing\nlong traceback")

    mailbox = Mailbox([("a", job("bad")), ("b", job("never"))])
    with pytest.raises(ValueError, match="a shard went missing"):
        serve(mailbox, work, rank)
    assert mailbox.outcomes == {"a": [{"status": "failed", "reason": "ValueError: a shard went missing"}]}


def test_job_that_cannot_be_read_is_a_failure_of_that_job(serve):
    mailbox = Mailbox([("a", {"kind": "export"})])
    with pytest.raises(ValueError, match="export"):
        serve(mailbox, lambda job, report, judge: {})
    assert mailbox.outcomes["a"][0]["status"] == "failed"


def test_outcome_is_finished_unless_the_job_says_otherwise(serve):
    stopped = {"status": "stopped", "reason": "ranks 7 of 9", "metrics": {}}
    mailbox = Mailbox([("a", job("trial")), ("b", job("measure"))])
    serve(mailbox, lambda job, report, judge: stopped if job.name == "trial" else {"items": 3})
    assert mailbox.outcomes == {"a": [stopped], "b": [{"status": "finished", "items": 3}]}


def test_verdict_is_asked_for_by_rank_0_and_broadcast(serve):
    mailbox, sent, verdicts = Mailbox([("a", job("first")), ("b", job("second"))]), [], []
    serve(mailbox, lambda job, report, judge: verdicts.append(judge(2, 4)) or {}, sent=sent)
    assert mailbox.judged == [("a", 2), ("b", 2)]
    assert [verdict.reason for verdict in verdicts] == ["a ends at rung 2", "b ends at rung 2"]
    assert sent[1:] == verdicts


def test_other_ranks_hear_the_verdict_and_ask_nobody(serve):
    mailbox, verdict, verdicts = Mailbox([("a", job("first"))]), Verdict(keep=True), []
    serve(mailbox, lambda job, report, judge: verdicts.append(judge(1, 4)) or {}, rank=1, heard=[verdict])
    assert verdicts == [verdict] and mailbox.judged == []


def test_reports_carry_the_ticket_of_their_job(serve):
    mailbox = Mailbox([("a", job("first")), ("b", job("second"))])
    serve(mailbox, lambda job, report, judge: report({"event": "log", "line": job.name}) or {})
    assert mailbox.reports == [("a", {"event": "log", "line": "first"}), ("b", {"event": "log", "line": "second"})]


def progress(step, steps=100):
    return {"event": "progress", "step": step, "steps": steps, "loss": 0.0}


def test_progress_is_thinned_but_never_its_last_step(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(lane_worker, "time", SimpleNamespace(monotonic=lambda: clock.now))
    mailbox = Mailbox()
    reporter = Reporter(mailbox, "a")
    for step in range(1, 101):
        reporter(progress(step))
        clock.now += PROGRESS_EVERY_S / 10
    steps = [event["step"] for _, event in mailbox.reports]
    assert steps[0] == 1 and steps[-1] == 100
    assert 10 <= len(steps) <= 12


def test_rungs_and_log_lines_are_never_held_back():
    mailbox = Mailbox()
    reporter = Reporter(mailbox, "a")
    for event in ({"event": "rung", "rung": 1}, {"event": "log", "line": "x"}, {"event": "rung", "rung": 2}):
        reporter(event)
    assert [event["event"] for _, event in mailbox.reports] == ["rung", "log", "rung"]
