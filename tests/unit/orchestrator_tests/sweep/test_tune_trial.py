from types import SimpleNamespace

import pytest

from orchestrator.sweep import ray_tune
from orchestrator.sweep.ray_tune import TuneTrial
from tests.support.local_job_queue import Handle, local_mailbox

LOG = {"event": "log", "line": "sampled"}
OUTCOME = {"status": "finished", "metrics": {"test/utility": 0.5}, "seconds": {}}


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


def rung(number):
    return {"event": "rung", "rung": number, "metrics": {"validation/utility": number / 10}}


def test_lease_queues_its_trials_job(lease, box, get):
    assert get(box.next_job("lane0", "first", 0)) == ("t0007", {"kind": "trial"})


def test_one_step_is_everything_new_in_the_order_in_which_it_was_told(lease, box, get):
    first, then = [LOG, rung(1), {"event": "test", "rung": 1, "metrics": {}}], [LOG, rung(2)]
    report(get, box, *first)
    assert lease.step() == {"number": 7, "events": first, "done": False}
    report(get, box, *then)
    assert lease.step() == {"number": 7, "events": then, "done": False}


def test_progress_is_not_told(lease, box, get):
    report(get, box, {"event": "progress", "step": 1}, rung(1))
    assert lease.step()["events"] == [rung(1)]


@pytest.mark.parametrize(
    "outcome",
    [
        OUTCOME,
        {"status": "stopped", "reason": "ranks 7 of 9"},
        {"status": "failed", "reason": "NaN"},
        {"status": "lost", "reason": "no lane"},
    ],
    ids=lambda outcome: outcome["status"],
)
def test_outcome_comes_last_whatever_it_is(lease, box, get, outcome):
    report(get, box, rung(1), LOG)
    get(box.finish("t0007", outcome))
    assert lease.step() == {
        "number": 7,
        "events": [rung(1), LOG, {"event": "outcome"} | outcome],
        "done": True,
    }


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
    again = {"event": "again", "line": "its workers died; it starts again (start 2)"}
    assert lease.step()["events"] == [again, LOG, rung(2)]


def test_lease_serves_one_trial_after_another(lease, box, get):
    report(get, box, rung(1))
    get(box.finish("t0007", OUTCOME))
    assert lease.step()["done"]
    assert lease.reset_config(config(8)) is True
    report(get, box, rung(1), name="t0008")
    assert lease.step() == {"number": 8, "events": [rung(1)], "done": False}


def test_lease_has_nothing_to_save(lease, tmp_path):
    assert lease.save_checkpoint(str(tmp_path)) is None
    assert lease.load_checkpoint(None) is None
    assert list(tmp_path.iterdir()) == []
