import pytest

from orchestrator.storage.followup_records import Audit, Confirmation
from orchestrator.storage.trial_records import TrialRecord, trial_id
from orchestrator.tracking.run_contents import audit_run, confirmation_run
from orchestrator.tracking.tracked_sweep import read_tracked_trials
from orchestrator.tracking.tracker import SweepInfo, Tracker
from search_spaces.user_errors import UserError
from tests.support.mlflow_store import new_store
from tests.support.sweeps.finished_sweep import sweep
from tests.support.sweeps.sweep_on_disk import measured


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """A store that holds a sweep with a finished, a stopped and a running trial, a confirmation and an
    audit."""
    folder = new_store(tmp_path_factory)
    uri = f"sqlite:///{folder}/mlflow.db"
    tracker = Tracker(uri, "lethe", "older", folder / "artifacts")
    tracker.sync_parent(SweepInfo(sweep(name="older"), "digest"))
    for number, status in enumerate(("finished", "stopped", "running")):
        tracker.sync_trial(trial(number, status), (), "npo", "none", 8.0)
    tracker.sync_side_run(
        confirmation_run(Confirmation("t0000", 2, 7, "t0000", measured(0.3, 0.6), None, 4.0))
    )
    tracker.sync_side_run(audit_run(Audit("t0000", measured(0.3, 0.6), [], 4, "0123456789ab", 2)))
    return uri


def trial(number, status):
    params = {"forget.method": "npo", "optimizer.learning_rate": 0.5 + number, "token_belief.top_k": 3}
    rungs = [measured(0.9, 0.9), measured(0.4, 0.6)]
    ended = {} if status == "running" else {"duration_s": 4.0, "finished_at": 1004.0}
    return TrialRecord(trial_id(number), number, status, params, rungs[-1], rungs, started_at=1000.0, **ended)


def test_tracked_trials_are_those_that_have_ended_with_typed_params_and_every_rung(uri):
    found = read_tracked_trials(uri, "lethe", "older")
    assert [(record.trial_id, record.status) for record in found] == [
        ("t0000", "finished"),
        ("t0001", "stopped"),
    ]
    assert found[1].params == trial(1, "stopped").params
    for rung, expected in zip(found[0].rungs, trial(0, "finished").rungs, strict=True):
        assert {key: rung[key] for key in expected} == expected


def test_sweep_that_mlflow_does_not_know_is_named(uri):
    with pytest.raises(
        UserError, match=r'search.warm_start: MLflow has no sweep of this name \(given: "mlflow:newer"\)'
    ):
        read_tracked_trials(uri, "lethe", "newer")
    with pytest.raises(UserError, match="has no sweep"):
        read_tracked_trials(uri, "elsewhere", "older")


def test_store_that_is_away_is_named_without_its_password():
    with pytest.raises(UserError, match="cannot be read") as caught:
        read_tracked_trials("http://me:secret@127.0.0.1:9", "lethe", "older")
    assert "secret" not in str(caught.value)
