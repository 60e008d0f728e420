from dataclasses import dataclass, field

import pytest

from orchestrator.lanes.job_batch import JobBatch, JobTask
from orchestrator.lanes.job_queue import LostError
from tests.support.local_lanes import LocalLanes, Observer
from trainables.events import Failed, Finished, Lost, RungDecision

FINISHED = Finished()


@dataclass
class Task(JobTask):
    """Keeps its outcomes in a list that all tasks of a test share."""

    label: str
    kept: list = field(default_factory=list)
    rungs: dict = field(default_factory=dict)

    @property
    def name(self):
        return self.label

    def job(self):
        return f"job of {self.label}"

    def keep(self, result):
        self.kept.append(self.label)
        return "kept"

    def fail(self, reason):
        return f"failed: {reason}"

    def decisions(self):
        return self.rungs


def tasks(*labels):
    kept = []
    return [Task(label, kept) for label in labels], kept


def batch(tmp_path, **more):
    return JobBatch("results", tmp_path / "driver.log", **more)


def test_results_are_kept_in_the_order_in_which_jobs_end(tmp_path):
    wanted, kept = tasks("a", "b", "c")
    observer, lanes = Observer(), LocalLanes(lambda name, job: FINISHED, order=["c", "a"])
    result = batch(tmp_path, title="working").run(wanted, lanes, observer)
    assert kept == ["c", "a", "b"] and not result.failed and not result.stopped
    assert observer.lines == ["c [1/3]: kept", "a [2/3]: kept", "b [3/3]: kept"]
    assert observer.stages == ["working"] and lanes.jobs["a"] == "job of a"


def test_without_a_title_the_oldest_unfinished_task_is_named(tmp_path):
    wanted, _ = tasks("a", "b")
    observer = Observer()
    batch(tmp_path).run(wanted, LocalLanes(lambda name, job: FINISHED), observer)
    assert observer.stages == ["a", "b"]


def test_nothing_is_shown_for_a_batch_without_tasks(tmp_path):
    observer = Observer()
    batch(tmp_path, title="working").run([], LocalLanes(lambda name, job: FINISHED), observer)
    assert observer.stages == observer.lines == []


def test_failed_jobs_are_named_and_the_others_go_on(tmp_path):
    wanted, kept = tasks("a", "b")
    lanes = LocalLanes(lambda name, job: Failed("no room") if name == "a" else FINISHED)
    observer = Observer()
    result = batch(tmp_path).run(wanted, lanes, observer)
    assert (result.failed, kept, observer.lines[0]) == (["a"], ["b"], "a [1/2]: failed: no room")


def test_lost_jobs_are_counted_after_the_others_are_kept(tmp_path):
    wanted, kept = tasks("a", "b", "c")
    lost = Lost("no lane is left")
    lanes = LocalLanes(lambda name, job: FINISHED if name == "b" else lost)
    with pytest.raises(
        LostError, match=r"2 results are missing: no lane is left.*run the same command again"
    ):
        batch(tmp_path).run(wanted, lanes, Observer())
    assert kept == ["b"]


def test_decisions_are_made_before_the_job_asks(tmp_path):
    stop = RungDecision(go_on=False)
    lanes = LocalLanes(lambda name, job: FINISHED)
    batch(tmp_path).run([Task("a", rungs={1: stop})], lanes, Observer())
    assert lanes.decisions == {"a": {1: stop}}


def test_stop_request_is_seen_after_a_result_and_an_old_one_is_forgotten(tmp_path):
    request = tmp_path / "stop"
    request.touch()
    wanted, kept = tasks("a", "b")
    result = batch(tmp_path, stop_request=request).run(
        wanted, LocalLanes(lambda name, job: FINISHED), Observer(lambda lines: request.touch())
    )
    assert result.stopped and kept == ["a"]
