from dataclasses import dataclass, field

import pytest

from orchestrator.lanes.job_batch import JobBatch, JobTask
from orchestrator.lanes.job_queue import LostError
from tests.support.local_lanes import LocalLanes, Observer
from trainables.events import Failed, Finished, Lost, RungDecision

FINISHED = Finished()


@dataclass
class Task(JobTask):
    """A task that adds its label to a list, which the tasks of a test share, when its result is kept."""

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


def make_tasks(*labels):
    """Returns tasks, and the list of those whose results are kept."""
    kept = []
    return [Task(label, kept) for label in labels], kept


def make_batch(tmp_path, **more):
    return JobBatch("results", tmp_path / "driver.log", **more)


def test_results_are_kept_in_the_order_in_which_jobs_end(tmp_path):
    tasks, kept = make_tasks("a", "b", "c")
    observer, lanes = Observer(), LocalLanes(lambda name, job: FINISHED, order=["c", "a"])
    result = make_batch(tmp_path, title="working").run(tasks, lanes, observer)
    assert kept == ["c", "a", "b"] and not result.failed and not result.stopped
    assert observer.lines == ["c [1/3]: kept", "a [2/3]: kept", "b [3/3]: kept"]
    assert observer.stages == ["working"] and lanes.jobs["a"] == "job of a"


def test_without_a_title_the_oldest_unfinished_task_is_named(tmp_path):
    tasks, _ = make_tasks("a", "b")
    observer = Observer()
    make_batch(tmp_path).run(tasks, LocalLanes(lambda name, job: FINISHED), observer)
    assert observer.stages == ["a", "b"]


def test_nothing_is_shown_for_a_batch_without_tasks(tmp_path):
    observer = Observer()
    make_batch(tmp_path, title="working").run([], LocalLanes(lambda name, job: FINISHED), observer)
    assert observer.stages == observer.lines == []


def test_failed_jobs_are_listed_and_the_others_go_on(tmp_path):
    tasks, kept = make_tasks("a", "b")
    lanes = LocalLanes(lambda name, job: Failed("no room") if name == "a" else FINISHED)
    observer = Observer()
    result = make_batch(tmp_path).run(tasks, lanes, observer)
    assert (result.failed, kept, observer.lines[0]) == (["a"], ["b"], "a [1/2]: failed: no room")


def test_lost_jobs_are_counted_after_the_others_are_kept(tmp_path):
    tasks, kept = make_tasks("a", "b", "c")
    lost = Lost("no lane is left")
    lanes = LocalLanes(lambda name, job: FINISHED if name == "b" else lost)
    with pytest.raises(
        LostError, match=r"2 results are missing: no lane is left.*run the same command again"
    ):
        make_batch(tmp_path).run(tasks, lanes, Observer())
    assert kept == ["b"]


def test_decisions_are_made_before_the_job_needs_them(tmp_path):
    stop = RungDecision(go_on=False)
    lanes = LocalLanes(lambda name, job: FINISHED)
    make_batch(tmp_path).run([Task("a", rungs={1: stop})], lanes, Observer())
    assert lanes.decisions == {"a": {1: stop}}


def test_stop_request_ends_the_batch_after_a_result_and_an_old_one_is_removed(tmp_path):
    request = tmp_path / "stop"
    request.touch()
    tasks, kept = make_tasks("a", "b")
    lanes, observer = LocalLanes(lambda name, job: FINISHED), Observer(lambda lines: request.touch())
    result = make_batch(tmp_path, stop_request=request).run(tasks, lanes, observer)
    assert result.stopped and kept == ["a"]
