from dataclasses import asdict
from types import SimpleNamespace

import pytest

from orchestrator.sweep import ray_tune
from orchestrator.sweep.ray_tune import TuneTrial
from tests.support.local_job_queue import Handle, local_job_queue
from trainables.events import (
    Failed,
    Finished,
    JobRestarted,
    LineLogged,
    Lost,
    RungReached,
    RungTested,
    StepDone,
    Stopped,
)

LOG = LineLogged("sampled")
OUTCOME = Finished({"metrics": {"test/utility": 0.5}, "seconds": {}})


@pytest.fixture
def local(monkeypatch):
    with local_job_queue(monkeypatch, ray_tune) as local:
        yield local


@pytest.fixture
def queue(local):
    return local[0]


@pytest.fixture
def get(local):
    return local[1]


def config(number):
    return {"trial_id": f"t{number:04d}", "number": number, "job": {"kind": "trial"}}


@pytest.fixture
def tune_trial(queue):
    # Without Tune's constructor, which needs a session of Tune.
    tune_trial = TuneTrial.__new__(TuneTrial)
    tune_trial.setup(config(7), job_queue=Handle(queue))
    return tune_trial


def report(get, queue, *events, name="t0007"):
    for event in events:
        get(queue.report(name, event))


def result(number, *events, outcome=None):
    """Returns what the trial reports to Tune."""
    return {
        "number": number,
        "events": [asdict(event) for event in events],
        "outcomes": [] if outcome is None else [asdict(outcome)],
        "done": outcome is not None,
    }


def rung(number):
    return RungReached(number, 4, {"validation/utility": number / 10})


def test_setup_queues_the_job_of_the_trial(tune_trial, queue, get):
    assert get(queue.next_job("lane0", "first", 0)) == ("t0007", {"kind": "trial"})


def test_one_step_returns_all_new_events_in_their_order(tune_trial, queue, get):
    first, second = [LOG, rung(1), RungTested(1, {})], [LOG, rung(2)]
    report(get, queue, *first)
    assert tune_trial.step() == result(7, *first)
    report(get, queue, *second)
    assert tune_trial.step() == result(7, *second)


def test_progress_is_not_reported_to_tune(tune_trial, queue, get):
    report(get, queue, StepDone(1, 9), rung(1))
    assert tune_trial.step() == result(7, rung(1))


@pytest.mark.parametrize(
    "outcome",
    [OUTCOME, Stopped("ranks 7 of 9"), Failed("NaN"), Lost("no lane")],
    ids=lambda outcome: outcome.status,
)
def test_every_outcome_comes_after_all_events(tune_trial, queue, get, outcome):
    report(get, queue, rung(1), LOG)
    get(queue.finish("t0007", outcome))
    assert tune_trial.step() == result(7, rung(1), LOG, outcome=outcome)


def test_step_waits_until_there_is_something_new(tune_trial, queue, monkeypatch, get):
    calls = []

    def get_and_finish(call):
        calls.append(call)
        if len(calls) == 3:
            get(queue.finish("t0007", OUTCOME))
        return get(call)

    monkeypatch.setattr(ray_tune, "ray", SimpleNamespace(get=get_and_finish))
    assert tune_trial.step()["done"]
    assert len(calls) == 3


def test_rungs_reported_before_the_workers_died_are_not_reported_twice(tune_trial, queue, get):
    get(queue.next_job("lane0", "first", 0))
    report(get, queue, LOG, rung(1))
    tune_trial.step()
    get(queue.lane_ready("lane0", "second"))
    report(get, queue, LOG, rung(1), rung(2))
    restart = JobRestarted("its workers died; it starts again (start 2)")
    assert tune_trial.step() == result(7, restart, LOG, rung(2))


def test_one_actor_serves_one_trial_after_another(tune_trial, queue, get):
    report(get, queue, rung(1))
    get(queue.finish("t0007", OUTCOME))
    assert tune_trial.step()["done"]
    assert tune_trial.reset_config(config(8)) is True
    report(get, queue, rung(1), name="t0008")
    assert tune_trial.step() == result(8, rung(1))


def test_nothing_is_saved(tune_trial, tmp_path):
    assert tune_trial.save_checkpoint(str(tmp_path)) is None
    assert tune_trial.load_checkpoint(None) is None
    assert list(tmp_path.iterdir()) == []
