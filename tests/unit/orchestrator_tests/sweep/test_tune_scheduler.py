import pickle
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from ray._private.dict import flatten_dict
from ray.tune.schedulers import TrialScheduler

from orchestrator.sweep import ray_tune
from orchestrator.sweep.ray_tune import RungScheduler
from tests.support.local_job_queue import Handle, local_job_queue
from tests.support.sweeps.sweep_in_progress import SECONDS, part, start_sweep
from tests.support.sweeps.sweep_on_disk import measured, small_sweep
from trainables.events import LineLogged, Lost, RungReached, RungTested, Stopped

RUNG = RungReached(1, 4, part((0.5, 0.7), "validation"))
TEST = RungTested(1, part((0.5, 0.7), "test"))
OUTCOME = Stopped("ranks 7 of 9", {"seconds": SECONDS})


class RunningTrial:
    """A trial that a lane runs, with its scheduler between a real recorder and a real job queue."""

    def __init__(self, sweep_start, queue, get):
        self.study = sweep_start.study
        self.queue, self.get = queue, get
        self.recorder = sweep_start.recorder
        self.scheduler = RungScheduler(sweep_start.recorder, Handle(queue))
        proposed = self.study.ask()
        config = {"number": proposed.number, "trial_id": proposed.trial_id}
        self.trial = SimpleNamespace(trial_id="Tune's own name", config=config)
        self.scheduler.on_trial_add(None, self.trial)
        get(queue.submit("t0000", {}))
        get(queue.next_job("lane0", "first", 0))

    def step(self, *events):
        """Passes events to the scheduler, flattened, as Tune does after a step of its trial."""
        plain = [asdict(event) for event in events]
        result = {"number": 0, "events": plain, "outcomes": [], "done": False}
        return self.scheduler.on_trial_result(None, self.trial, flatten_dict(result))

    def complete(self, *events, outcome=OUTCOME):
        """Passes events and an outcome to the scheduler, as Tune does after the last step of its trial."""
        plain = [asdict(event) for event in events]
        result = {"number": 0, "events": plain, "outcomes": [asdict(outcome)], "done": True}
        self.scheduler.on_trial_complete(None, self.trial, flatten_dict(result))

    def decision(self, rung):
        """Returns the decision that the lane gets."""
        return self.get(self.queue.decision("t0000", rung))

    def record(self):
        return self.study.record(0)


@pytest.fixture
def local(monkeypatch):
    with local_job_queue(monkeypatch, ray_tune) as local:
        yield local


@pytest.fixture
def running(tmp_path, local):
    return RunningTrial(start_sweep(tmp_path), *local)


def test_trial_that_is_added_is_running(running):
    assert list(running.recorder.sweep_state.running) == [0]


def test_decision_about_a_rung_reaches_the_lane(running):
    assert running.step(LineLogged("sampled"), RUNG) == TrialScheduler.CONTINUE
    decision = running.decision(1)
    assert (decision.go_on, decision.keep) == (True, True)
    assert running.record().rungs == [RUNG.metrics]


def test_trial_is_stopped_by_its_decision_and_never_by_tune(tmp_path, local):
    sweep = small_sweep(early_stopping={"floors": {"utility": {"at_least": 0.8}}})
    running = RunningTrial(start_sweep(tmp_path, sweep), *local)
    assert running.step(RUNG) == TrialScheduler.CONTINUE
    assert not running.decision(1).go_on and "utility" in running.decision(1).reason
    assert running.record().status == "running"


def test_last_events_of_a_completed_trial_are_recorded(running):
    running.step(RUNG)
    running.complete(TEST)
    record = running.record()
    assert (record.status, record.reason, record.metrics) == ("stopped", "ranks 7 of 9", measured(0.5, 0.7))


def test_rung_that_arrives_with_the_outcome_is_decided_too(running):
    running.complete(RUNG, TEST)
    assert running.decision(1).keep
    assert running.record().status == "stopped"


def test_trial_whose_tune_actor_died_fails_and_ends_at_its_next_rung(running):
    running.step(RUNG)
    running.scheduler.on_trial_error(None, running.trial)
    record = running.record()
    assert (record.status, record.reason) == ("failed", "the Tune actor that waited for this trial died")
    assert running.decision(1).go_on, "this decision was made before"
    assert not running.decision(2).go_on


def test_trial_whose_tune_actor_died_before_it_queued_the_job_fails(running):
    other = running.study.ask()
    running.scheduler.on_trial_error(None, SimpleNamespace(config={"number": other.number}))
    assert running.study.record(other.number).status == "failed"
    assert running.record().status == "running"


def test_lost_trial_is_left_to_the_next_start(running):
    running.complete(outcome=Lost("no lane left"))
    assert running.record().status == "running"
    assert running.recorder.lost == "no lane left"


def test_scheduler_is_pickled_empty(running):
    assert not vars(pickle.loads(pickle.dumps(running.scheduler)))
