from dataclasses import asdict
from types import SimpleNamespace

import pytest

from orchestrator.sweep import ray_tune
from orchestrator.sweep.ray_tune import TuneTrial
from tests.support.local_job_queue import Handle, local_mailbox
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
    with local_mailbox(monkeypatch, ray_tune) as local:
        yield local


@pytest.fixture
def box(local):
    return local[0]


@pytest.fixture
def get(local):
    return local[1]


def config(number):
    return {"trial_id": f"t{number:04d}", "number": number, "job": {"kind": "trial"}}


@pytest.fixture
def lease(box):
    # Tune's constructor asks for its session; ours is `setup`.
    lease = TuneTrial.__new__(TuneTrial)
    lease.setup(config(7), job_queue=Handle(box))
    return lease


def report(get, box, *events, name="t0007"):
    for event in events:
        get(box.report(name, event))


def result(number, *events, outcome=None):
    """What the trial reports to Tune."""
    return {
        "number": number,
        "events": [asdict(event) for event in events],
        "outcome": outcome and asdict(outcome),
        "done": outcome is not None,
    }


def rung(number):
    return RungReached(number, 4, {"validation/utility": number / 10})


def test_lease_queues_its_trials_job(lease, box, get):
    assert get(box.next_job("lane0", "first", 0)) == ("t0007", {"kind": "trial"})


def test_one_step_is_everything_new_in_the_order_in_which_it_was_told(lease, box, get):
    first, then = [LOG, rung(1), RungTested(1, {})], [LOG, rung(2)]
    report(get, box, *first)
    assert lease.step() == result(7, *first)
    report(get, box, *then)
    assert lease.step() == result(7, *then)


def test_progress_is_not_told(lease, box, get):
    report(get, box, StepDone(1, 9), rung(1))
    assert lease.step() == result(7, rung(1))


@pytest.mark.parametrize(
    "outcome",
    [
        OUTCOME,
        Stopped("ranks 7 of 9"),
        Failed("NaN"),
        Lost("no lane"),
    ],
    ids=lambda outcome: outcome.status,
)
def test_outcome_comes_last_whatever_it_is(lease, box, get, outcome):
    report(get, box, rung(1), LOG)
    get(box.finish("t0007", outcome))
    assert lease.step() == result(7, rung(1), LOG, outcome=outcome)


def test_step_waits_until_there_is_something_to_tell(lease, box, monkeypatch, get):
    asked = []

    def follow(call):
        asked.append(call)
        if len(asked) == 3:
            get(box.finish("t0007", OUTCOME))
        return get(call)

    monkeypatch.setattr(ray_tune, "ray", SimpleNamespace(get=follow))
    assert lease.step()["done"]
    assert len(asked) == 3


def test_rungs_told_before_the_workers_died_are_not_told_twice(lease, box, get):
    get(box.next_job("lane0", "first", 0))
    report(get, box, LOG, rung(1))
    lease.step()
    get(box.lane_ready("lane0", "second"))
    report(get, box, LOG, rung(1), rung(2))
    again = JobRestarted("its workers died; it starts again (start 2)")
    assert lease.step() == result(7, again, LOG, rung(2))


def test_lease_serves_one_trial_after_another(lease, box, get):
    report(get, box, rung(1))
    get(box.finish("t0007", OUTCOME))
    assert lease.step()["done"]
    assert lease.reset_config(config(8)) is True
    report(get, box, rung(1), name="t0008")
    assert lease.step() == result(8, rung(1))


def test_lease_has_nothing_to_save(lease, tmp_path):
    assert lease.save_checkpoint(str(tmp_path)) is None
    assert lease.load_checkpoint(None) is None
    assert list(tmp_path.iterdir()) == []
