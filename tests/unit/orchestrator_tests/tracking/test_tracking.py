import json
import math
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.pareto.front import front_json, hypervolume_history
from orchestrator.pareto.objectives import criteria_of
from orchestrator.storage.followup_records import Audit, Confirmation
from orchestrator.storage.trial_records import TrialRecord
from orchestrator.tracking import tracker as tracker_module
from orchestrator.tracking.run_contents import audit_run, confirmation_run
from orchestrator.tracking.tracked_datasets import DatasetInfo
from orchestrator.tracking.tracker import SweepInfo, SweepSummary, Tracker, TrackingError
from search_spaces.user_errors import UserError
from tests.support.mlflow_store import first_store, new_store
from tests.support.sweeps.finished_sweep import RUNGS, metrics, rungs, sweep, validation_only, view


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One real SQLite store for all tests: sweeps are distinguished by their identity."""
    folder = new_store(tmp_path_factory)
    return f"sqlite:///{folder}/mlflow.db", folder / "artifacts"


@pytest.fixture
def start(store, request):
    """Starts a driver of this test's sweep: each call is a new process as far as the tracker can tell."""
    return lambda: tracker(*store, request.node.name)


@pytest.fixture
def client(store):
    return MlflowClient(tracking_uri=store[0])


def tracker(uri, artifacts, identity):
    return Tracker(uri, "lethe", "synthetic", artifacts, identity)


def info(datasets=(), **more):
    return SweepInfo(sweep(**more), "digest", {"git.commit": "abc"}, datasets)


def trial(number=3, ended=RUNGS, **more):
    """A finished trial; with fewer rungs than all, one that still runs."""
    whole = rungs(0.7, "token")
    path = [*map(validation_only, whole[:-1]), whole[-1]][:ended]
    done = {"status": "finished", "duration_s": 9.0, "finished_at": 1009.0} if ended == RUNGS else {}
    params = {"forget.method": "npo", "beliefs": "token", "token_belief.top_k": 7}
    fields = {"status": "running", "metrics": path[-1] if path else {}, "started_at": 1000.0, **done, **more}
    return TrialRecord(
        **{"trial_id": f"t{number:04d}", "number": number, "params": params, "rungs": path, **fields}
    )


def send(sender, record, front=(), worker_seconds=18.0):
    return sender.sync_trial(record, front, "npo", "token", worker_seconds)


def summary(**more):
    return SweepSummary(**{"counts": {}, "front": {}, "leaderboard": "", **more})


def children(client, parent):
    experiment = client.get_experiment_by_name("lethe").experiment_id
    return client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")


def steps(client, run_id, key):
    return sorted(metric.step for metric in client.get_metric_history(run_id, key))


def text(client, run_id, name):
    return Path(client.download_artifacts(run_id, name)).read_text()


def test_store_is_made_whole_where_an_earlier_start_was_killed(tmp_path_factory):
    assert sorted(file.name for file in first_store(tmp_path_factory).iterdir()) == [
        "mlflow.db",
        "mlflow.db.lock",
    ]


def test_parent_has_the_settings_as_params_and_the_origins_as_tags(start, client):
    run = client.get_run(start().sync_parent(info()))
    assert run.info.run_name == "synthetic"
    assert run.data.params["trial.optimizer.learning_rate"] == "1e-05"
    assert json.loads(run.data.params["space.token_belief.top_k"]) == {
        "log_int": [1, 64],
        "when": {"beliefs": ["token"]},
    }
    assert run.data.tags["git.commit"] == "abc"
    assert run.data.tags["lethe.data_digest"] == "digest"
    assert json.loads(text(client, run.info.run_id, "sweep.json"))["name"] == "synthetic"


def test_parent_cuts_long_values_in_params_and_keeps_them_in_the_artifact(start, client):
    run_id = start().sync_parent(info(description="x" * 9000))
    assert client.get_run(run_id).data.params["description"] == "x" * 500
    assert "x" * 9000 in text(client, run_id, "sweep.json")


def test_parent_shows_no_password_of_the_settings(start, client):
    run_id = start().sync_parent(info(model={"target": "https://me:secret@models.example/target"}))
    assert client.get_run(run_id).data.params["model.target"] == "https://***@models.example/target"
    assert "secret" not in text(client, run_id, "sweep.json")


def test_parent_is_found_again_after_a_resume_with_more_trials(start, client):
    first = start().sync_parent(info(search={"trials": 20}))
    client.set_terminated(first, "KILLED")
    assert start().sync_parent(info(search={"trials": 40})) == first
    run = client.get_run(first)
    assert run.data.tags["lethe.trials"] == "40"
    assert run.info.status == "RUNNING"


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


def test_hypervolumes_are_a_curve_of_the_parent_that_grows_without_duplicates(start, client):
    history = hypervolume_history(view().records, criteria_of(sweep()))
    sender = start()
    sender.sync_hypervolumes(1, history[:5])
    sender.sync_hypervolumes(6, history[5:8])
    again = start()
    again.sync_hypervolumes(1, history)
    logged = client.get_metric_history(again.sync_parent(info()), "hypervolume")
    assert [(metric.step, metric.value) for metric in logged] == list(enumerate(history, start=1))


def test_summary_puts_counts_leaderboard_and_files_on_the_parent(start, client, tmp_path):
    settings = view()
    front = front_json(settings.sweep, settings.records, settings.baselines)
    picture = tmp_path / "front.png"
    picture.write_bytes(b"old")
    start().sync_summary(summary(leaderboard="| t |", files=[picture]))
    picture.write_bytes(b"new")
    sender = start()
    counts = {"finished": 18, "stopped": 1, "failed": 1}
    sender.sync_summary(SweepSummary(counts, front, "| trial |", [picture], "FINISHED"))
    run = client.get_run(sender.sync_parent(info()))
    assert run.data.tags["mlflow.note.content"] == "| trial |"
    assert {name: int(run.data.tags[f"lethe.{name}"]) for name in counts} == counts
    assert text(client, run.info.run_id, "front.png") == "new"
    assert json.loads(text(client, run.info.run_id, "front.json")) == front


def test_summary_sets_the_status_of_the_parent(start, client):
    sender = start()
    run_id = sender.sync_parent(info())
    sender.sync_summary(summary(status="FINISHED"))
    assert client.get_run(run_id).info.status == "FINISHED"


def test_summary_cuts_a_long_leaderboard_between_rows(start, client):
    sender = start()
    row = "| " + "x" * 90 + " |"
    sender.sync_summary(summary(leaderboard="\n".join([row] * 200)))
    note = client.get_run(sender.sync_parent(info())).data.tags["mlflow.note.content"]
    assert len(note) <= 8000
    *rows, _, last = note.split("\n")
    assert set(rows) == {row}
    assert last == "More is in report.html."


def test_runs_say_what_kind_they_are(start, client):
    sender = start()
    sender.sync_side_run(confirmation_run(Confirmation("t0003", 4, 11, "t0003", {"test/utility": 0.5})))
    leak = {
        "probe": "leak",
        "id": "p1/city",
        "prompt": "Where?",
        "opening": "",
        "answer": "Lima.",
        "truth": "Lima.",
    }
    sender.sync_side_run(audit_run(Audit("t0003", {"test/leak_at_k": 0.5}, [leak], 4, "0123456789ab", 4)))
    kinds = {
        client.get_run(run_id).data.tags["lethe.kind"]
        for run_id in (sender.sync_parent(info()), send(sender, trial()))
    }
    assert kinds == {"sweep", "trial"}
    found = {
        run.info.run_name: run.data.tags["lethe.kind"] for run in children(client, sender.sync_parent(info()))
    }
    assert found == {"t0003": "trial", "t0003 seed 11": "confirmation", "audit t0003 012345": "audit"}
    audit = next(
        run for run in children(client, sender.sync_parent(info())) if run.data.tags["lethe.kind"] == "audit"
    )
    assert audit.data.metrics == {"test/leak_at_k": 0.5, "hidden_facts": 1.0, "facts": 4.0}
    assert (audit.data.tags["lethe.audits"], audit.info.status) == ("t0003", "FINISHED")


def test_parent_lists_its_data_once_however_often_it_starts(start, client):
    described = DatasetInfo("forget", "tofu-forget", "0a1b", 40, "local", '{"uri": "f.jsonl"}')
    for _ in range(2):
        run_id = start().sync_parent(info(datasets=[described]))
    (held,) = client.get_run(run_id).inputs.dataset_inputs
    assert (held.dataset.name, held.dataset.digest, json.loads(held.dataset.profile)) == (
        "tofu-forget",
        "0a1b",
        {"num_rows": 40},
    )
    assert [(tag.key, tag.value) for tag in held.tags] == [("mlflow.data.context", "forget")]


def test_leaderboard_is_shown_while_the_sweep_runs(start, client):
    sender = start()
    run_id = sender.sync_parent(info())
    sender.sync_leaderboard({"running": 2}, "| trial |")
    run = client.get_run(run_id)
    assert (run.data.tags["mlflow.note.content"], run.data.tags["lethe.running"], run.info.status) == (
        "| trial |",
        "2",
        "RUNNING",
    )


def views(client, request):
    tags = client.get_experiment_by_name("lethe").tags
    return {
        key: value
        for key, value in tags.items()
        if key == f"mlflow.sharedViewState.lethe-{request.node.name}"
    }


def test_view_is_a_tag_of_the_experiment_that_a_resume_writes_again(start, client, request):
    for name in ("before", "after"):
        sender = start()
        sender.sync_parent(info())
        path = sender.write_view(sweep(name=name))
    (value,) = views(client, request).values()
    assert json.loads(value)["name"] == "after"
    experiment = client.get_experiment_by_name("lethe").experiment_id
    key = f"lethe-{request.node.name}"
    assert path == f"/#/experiments/{experiment}/runs?viewStateShareKey={key}&compareRunsMode=CHART"


def test_view_is_left_out_with_one_line_where_the_version_is_not_known(
    start, client, request, monkeypatch, caplog
):
    monkeypatch.setattr(tracker_module, "version_of_ui", lambda uri: "9.9.1")
    sender = start()
    sender.sync_parent(info())
    assert sender.write_view(sweep()) is None
    assert views(client, request) == {}
    assert [record.getMessage() for record in caplog.records if "view" in record.getMessage()] == [
        "MLflow gets no saved view of this sweep: views of version '9.9.1' are not known"
    ]


def test_view_that_mlflow_refuses_fails_nothing(start, client, monkeypatch, caplog):
    def refuse(*args):
        raise ConnectionError("permission denied")

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse)
    sender = start()
    run_id = sender.sync_parent(info())
    assert sender.write_view(sweep()) is None
    assert "permission denied" in caplog.text
    assert sender.sync_parent(info()) == run_id


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
