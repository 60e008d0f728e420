import json

from mlflow import MlflowClient

from orchestrator.pareto.front import front_json, hypervolume_history
from orchestrator.pareto.objectives import criteria_of
from orchestrator.storage.followup_records import Audit, Confirmation
from orchestrator.tracking import tracker as tracker_module
from orchestrator.tracking.run_contents import audit_run, confirmation_run
from orchestrator.tracking.tracked_datasets import DatasetInfo
from orchestrator.tracking.tracker import SweepSummary
from tests.support.mlflow_store import first_store
from tests.support.sweeps.finished_sweep import sweep, view
from tests.support.tracked_runs import children, info, send, summary, text, trial


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
        "MLflow gets no saved view of this sweep: the view format of version '9.9.1' is not known"
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
