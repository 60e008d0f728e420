import math
import socket
from dataclasses import replace

import pytest
from mlflow import MlflowClient

from orchestrator.tracking.tracker import Tracker, TrackingError
from search_spaces.user_errors import UserError
from tests.support.sweeps.finished_sweep import RUNGS, metrics
from tests.support.tracked_runs import children, info, send, steps, tracker, trial


def test_trial_is_a_child_with_params_tags_and_metrics_per_rung(start, client):
    sender = start()
    parent = sender.sync_parent(info())
    run_id = send(sender, trial(), [4])
    (run,) = children(client, parent)
    assert (run.info.run_id, run.info.run_name, run.info.status) == (run_id, "t0003", "FINISHED")
    assert (run.info.start_time, run.info.end_time) == (1000_000, 1009_000)
    assert run.data.params == {"forget.method": "npo", "beliefs": "token", "token_belief.top_k": "7"}
    shown = {
        key: run.data.tags[key] for key in ("pareto.front", "pareto.rungs", "method", "beliefs", "status")
    }
    assert shown == {
        "pareto.front": "true",
        "pareto.rungs": "4",
        "method": "npo",
        "beliefs": "token",
        "status": "finished",
    }
    assert run.data.metrics["validation/utility"] == pytest.approx(trial().metrics["validation/utility"])
    assert steps(client, run_id, "validation/utility") == [0, 1, 2, 3]
    assert steps(client, run_id, "test/utility") == steps(client, run_id, "worker_seconds") == [3]
    assert (run.data.metrics["duration_s"], run.data.metrics["worker_seconds"]) == (9.0, 18.0)


def test_trial_grows_rung_by_rung_without_duplicates(start, client):
    sender = start()
    for ended in (0, 1, 1, 3, RUNGS, RUNGS):
        run_id = send(sender, trial(ended=ended))
    assert steps(client, run_id, "validation/utility") == [0, 1, 2, 3]


def test_trial_is_sent_once_when_each_start_sends_everything(start, client):
    parent = start().sync_parent(info())
    sent = {send(start(), record) for record in (trial(ended=2), trial(ended=2), trial(), trial())}
    assert [run.info.run_id for run in children(client, parent)] == list(sent)
    assert steps(client, *sent, "validation/utility") == [0, 1, 2, 3]


def test_trial_that_runs_again_after_a_kill_keeps_what_was_logged(start, client):
    sent = send(start(), trial(ended=2))
    again = replace(trial(ended=1), started_at=5000.0)
    assert send(start(), again) == sent
    assert send(start(), replace(trial(), started_at=5000.0, finished_at=5009.0), [4]) == sent
    assert steps(client, sent, "validation/utility") == [0, 1, 2, 3]


def test_trial_can_leave_the_front(start, client):
    for rungs_on_front, front, shown in (([2, 4], "true", "2, 4"), ([2], "true", "2"), ([], "false", "none")):
        tags = client.get_run(send(start(), trial(), rungs_on_front)).data.tags
        assert (tags["pareto.front"], tags["pareto.rungs"]) == (front, shown)


def test_trial_that_was_stopped_is_finished_for_mlflow_and_says_why(start, client):
    sender = start()
    send(sender, trial(ended=2))
    record = trial(ended=2, status="stopped", reason="rank 7 of 9", duration_s=4.0, finished_at=1004.0)
    run = client.get_run(send(sender, record, worker_seconds=8.0))
    assert (run.info.status, run.data.tags["status"], run.data.tags["reason"]) == (
        "FINISHED",
        "stopped",
        "rank 7 of 9",
    )
    assert run.data.metrics["worker_seconds"] == 8.0
    assert steps(client, run.info.run_id, "worker_seconds") == [1]


def test_test_part_of_a_kept_rung_is_sent_once_it_is_known(start, client):
    sender, first = start(), trial(ended=1)
    send(sender, first)
    kept = replace(trial(ended=2), rungs=[{**first.rungs[0], "test/utility": 0.5}, trial(ended=2).rungs[1]])
    run_id = send(sender, kept)
    assert steps(client, run_id, "test/utility") == [0]
    assert steps(client, run_id, "validation/utility") == [0, 1]


def test_test_part_that_came_with_the_end_is_sent_too(start, client):
    sender, first = start(), trial(ended=1)
    send(sender, first)
    stopped = replace(
        first, status="stopped", rungs=[{**first.rungs[0], "test/utility": 0.5}], finished_at=1002.0
    )
    assert steps(client, send(sender, stopped), "test/utility") == [0]


def test_trial_that_ended_before_its_first_rung_has_its_time(start, client):
    run = client.get_run(
        send(
            start(),
            trial(ended=0, status="failed", reason="out of memory", duration_s=2.0),
            worker_seconds=4.0,
        )
    )
    assert run.data.metrics == {"worker_seconds": 4.0, "duration_s": 2.0}


def test_trial_that_failed_says_why(start, client):
    record = trial(
        ended=1, status="failed", reason="out of memory: lower optimizer.micro_batch", finished_at=1004.0
    )
    run = client.get_run(send(start(), record))
    assert run.info.status == "FAILED"
    assert run.data.tags["reason"] == "out of memory: lower optimizer.micro_batch"
    assert run.data.tags["status"] == "failed"


def test_trial_with_a_metric_that_is_not_a_number_is_still_sent(start, client):
    record = trial(ended=1, metrics={**metrics(0.1, 0.1, 0.9, 0.9), "test/utility": math.nan})
    record = replace(record, status="failed", reason="NaN", rungs=[record.metrics])
    run_id = send(start(), record)
    assert math.isnan(client.get_metric_history(run_id, "test/utility")[0].value)


def test_sweeps_of_one_name_do_not_mix(store, client, request):
    mine, theirs = (tracker(*store, f"{request.node.name}-{who}") for who in ("mine", "theirs"))
    assert mine.sync_parent(info()) != theirs.sync_parent(info())
    assert send(mine, trial(), [4]) != send(theirs, trial(), [4])


def test_outage_in_the_middle_of_a_trial_is_made_good_by_the_next_call(start, client, monkeypatch):
    sender = start()
    sender.sync_parent(info())
    whole, calls = MlflowClient.log_batch, []

    def breaks_down(self, *args, **kwargs):
        calls.append(kwargs)
        if len(calls) == 2:
            raise ConnectionError("gone")
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", breaks_down)
    with pytest.raises(TrackingError, match="gone"):
        send(sender, trial(), [4])
    run = client.get_run(send(sender, trial(), [4]))
    assert steps(client, run.info.run_id, "validation/utility") == [0, 1, 2, 3]
    assert run.data.params["token_belief.top_k"] == "7"
    assert run.data.tags["status"] == "finished"


def test_run_that_somebody_removed_is_made_anew_by_the_call_after_next(start, client):
    sender = start()
    removed = send(sender, trial(ended=1))
    client.delete_run(removed)
    with pytest.raises(TrackingError):
        send(sender, trial())
    assert steps(client, send(sender, trial()), "validation/utility") == [0, 1, 2, 3]


def test_experiment_that_somebody_removed_is_restored(store, client, request):
    def sender():
        return Tracker(store[0], request.node.name, "synthetic", store[1])

    sender().sync_parent(info())
    client.delete_experiment(client.get_experiment_by_name(request.node.name).experiment_id)
    sender().sync_parent(info())
    assert client.get_experiment_by_name(request.node.name).lifecycle_stage == "active"


def test_server_that_is_away_is_a_tracking_error_without_the_password(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(TrackingError) as raised:
        tracker(f"http://me:secret@127.0.0.1:{port}", tmp_path, "away").sync_parent(info())
    assert "secret" not in str(raised.value)
    assert raised.value.__suppress_context__
    assert f"MLflow at http://***@127.0.0.1:{port}" in str(raised.value)


@pytest.mark.parametrize("uri", ["./mlruns", "/tmp/mlruns", "file:///tmp/mlruns"])
def test_plain_folder_is_refused_with_the_remedy(tmp_path, uri):
    with pytest.raises(UserError, match=r"sqlite:////absolute/path/mlflow\.db"):
        tracker(uri, tmp_path, "folder")
