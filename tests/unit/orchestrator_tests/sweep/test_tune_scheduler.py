import pickle
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from orchestrator.sweep import ray_tune
from orchestrator.sweep.ray_tune import RungScheduler
from tests.support.local_job_queue import Handle, local_mailbox
from tests.support.sweeps.sweep_in_progress import SECONDS, part, recording
from tests.support.sweeps.sweep_on_disk import measured, small_sweep
from trainables.events import LineLogged, Lost, RungReached, RungTested, Stopped

RUNG = RungReached(1, 4, part((0.5, 0.7), "validation"))
TEST = RungTested(1, part((0.5, 0.7), "test"))
OUTCOME = Stopped("ranks 7 of 9", {"seconds": SECONDS})


class Stage:
    """A scheduler between a recorder and a mailbox, both real, with one trial that a lane runs."""

    def __init__(self, recording, box, get):
        self.study, self.box, self.get = recording.study, box, get
        self.recorder = recording.recorder
        self.scheduler = RungScheduler(recording.recorder, Handle(box))
        asked = recording.study.ask()
        self.trial = SimpleNamespace(
            trial_id="tune's own", config={"number": asked.number, "trial_id": asked.trial_id}
        )
        self.scheduler.on_trial_add(None, self.trial)
        get(box.submit("t0000", {}))
        get(box.next_job("lane0", "first", 0))

    def told(self, *events):
        """What Tune does with a step of the trial's lease."""
        result = {"number": 0, "events": [asdict(event) for event in events], "outcome": None, "done": False}
        return self.scheduler.on_trial_result(None, self.trial, result)

    def completed(self, *events, outcome=OUTCOME):
        """What Tune does with its last step."""
        plain = [asdict(event) for event in events]
        result = {"number": 0, "events": plain, "outcome": asdict(outcome), "done": True}
        self.scheduler.on_trial_complete(None, self.trial, result)

    def decision(self, rung):
        """What the lane hears."""
        return self.get(self.box.decision("t0000", rung))

    def record(self):
        return self.study.record(0)


@pytest.fixture
def local(monkeypatch):
    with local_mailbox(monkeypatch, ray_tune) as local:
        yield local


@pytest.fixture
def stage(tmp_path, local):
    return Stage(recording(tmp_path), *local)


def test_trial_that_is_added_is_known_to_be_running(stage):
    assert list(stage.recorder.sweep_state.running) == [0]


def test_verdict_on_a_rung_reaches_the_lane(stage):
    assert stage.told(LineLogged("sampled"), RUNG) == TrialScheduler.CONTINUE
    decision = stage.decision(1)
    assert (decision.go_on, decision.keep) == (True, True)
    assert stage.record().rungs == [RUNG.metrics]


def test_trial_is_stopped_by_its_verdict_and_never_by_tune(tmp_path, local):
    stage = Stage(
        recording(tmp_path, small_sweep(early_stopping={"floors": {"utility": {"at_least": 0.8}}})), *local
    )
    assert stage.told(RUNG) == TrialScheduler.CONTINUE
    assert not stage.decision(1).go_on and "utility" in stage.decision(1).reason
    assert stage.record().status == "running"


def test_completed_trial_is_ended_with_all_that_came_at_last(stage):
    stage.told(RUNG)
    stage.completed(TEST)
    record = stage.record()
    assert (record.status, record.reason, record.metrics) == ("stopped", "ranks 7 of 9", measured(0.5, 0.7))


def test_rung_that_comes_along_with_the_end_is_judged_too(stage):
    stage.completed(RUNG, TEST)
    assert stage.decision(1).keep
    assert stage.record().status == "stopped"


def test_dead_lease_fails_its_trial_and_its_lane_is_told_to_end_it(stage):
    stage.told(RUNG)
    stage.scheduler.on_trial_error(None, stage.trial)
    record = stage.record()
    assert (record.status, record.reason) == ("failed", "the Tune actor that waited for this trial died")
    assert stage.decision(1).go_on, "this one was given before"
    assert not stage.decision(2).go_on


def test_lease_that_died_before_it_queued_its_job_fails_its_trial(stage):
    asked = stage.study.ask()
    stage.scheduler.on_trial_error(None, SimpleNamespace(config={"number": asked.number}))
    assert stage.study.record(asked.number).status == "failed"
    assert stage.record().status == "running"


def test_lost_trial_is_left_to_the_next_start(stage):
    stage.completed(outcome=Lost("no lane left"))
    assert stage.record().status == "running"
    assert stage.recorder.lost == "no lane left"


def test_scheduler_is_pickled_empty(stage):
    assert not vars(pickle.loads(pickle.dumps(stage.scheduler)))
