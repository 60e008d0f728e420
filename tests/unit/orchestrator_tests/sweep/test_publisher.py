import json

import pytest
from mlflow import MlflowClient

from orchestrator.pareto.objectives import criteria_of
from orchestrator.pareto.sweep_view import read_view
from orchestrator.report import html_report
from orchestrator.report.html_report import study_view, sweep_front
from orchestrator.search.study import Study
from orchestrator.search.sweep_state import SweepState
from orchestrator.storage.trial_records import BASELINES as NAMES
from orchestrator.sweep import publisher as publisher_module
from orchestrator.sweep.publisher import LEADERBOARD_EVERY_S, Publisher
from orchestrator.terminal.closing_lines import closing_lines
from orchestrator.terminal.sweep_tables import status_json
from orchestrator.tracking.tracker import TrackingError
from orchestrator.tracking.tracking_store import EXPERIMENT, VIEW_FILE, default_tracking_uri
from search_spaces.user_errors import UserError
from tests.support.mlflow_store import new_store
from tests.support.sweeps.sweep_on_disk import (
    BASELINES,
    FRONT,
    HYPERVOLUME,
    REASON,
    benchmark_of,
    measured,
    store,
)

AWAY = "sqlite:////proc/no-such-folder/mlflow.db"


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """Returns one real SQLite store for all tests; sweeps in it are distinguished by their identity."""
    return default_tracking_uri(new_store(tmp_path_factory))


@pytest.fixture
def quick_report(monkeypatch):
    """Replaces the report, which takes a second."""

    def write(folder, view):
        files = folder / "report.html", folder / "front.png"
        for file in files:
            file.write_text("report")
        return files

    monkeypatch.setattr(publisher_module, "write_report", write)


@pytest.fixture
def stored(tmp_path):
    return store(tmp_path)


def publisher(stored, uri, warnings=None):
    folder, sweep, study = stored
    sweep_state = SweepState(criteria_of(sweep), sweep.resources.workers_per_trial, study.records())
    warn = ([] if warnings is None else warnings).append
    return Publisher(sweep, folder, study, sweep_state, uri, benchmark_of(sweep), warn)


def update(publisher, number):
    """Updates sweep state and MLflow, as the recorder does when a trial has changed."""
    publisher.sweep_state.update(publisher.study.record(number))
    publisher.trials_changed([number])


def runs(stored, uri):
    """Returns the runs of this sweep by name."""
    client = MlflowClient(tracking_uri=uri)
    identity = (stored[0].path / "sweep_id").read_text()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    found = []
    if experiment:
        found = client.search_runs([experiment.experiment_id], f"tags.`lethe.sweep_id` = '{identity}'")
    names = [run.info.run_name for run in found]
    assert len(set(names)) == len(names), names
    return dict(zip(names, found, strict=True))


def test_only_changed_trials_are_sent_and_the_study_holds_their_run_ids(stored, uri):
    publisher(stored, uri).trials_changed([3, 4, 5])
    sent = runs(stored, uri)
    assert sorted(sent) == ["small", "t0003", "t0004", "t0005"]
    noted = {record.trial_id: record.mlflow_run_id for record in stored[2].records()}
    assert all(noted.pop(name) is None for name in ("t0000", "t0001", "t0002"))
    assert noted == {name: run.info.run_id for name, run in sent.items() if name != "small"}
    assert (sent["t0003"].info.status, sent["t0003"].data.tags["reason"]) == ("FAILED", REASON)
    assert (sent["t0004"].data.tags["pareto.front"], sent["t0004"].data.tags["pareto.rungs"]) == ("true", "1")
    assert sent["t0005"].info.status == "RUNNING"


def test_run_of_a_trial_has_its_method_and_beliefs_as_tags(stored, uri):
    publisher(stored, uri).trials_changed(range(6))
    sent = runs(stored, uri)
    for record in stored[2].records():
        tags = sent[record.trial_id].data.tags
        assert (tags["method"], tags["beliefs"]) == (record.params["forget.method"], record.params["beliefs"])


def test_run_id_is_written_once_however_often_a_trial_is_sent(stored, uri):
    sender = publisher(stored, uri)
    sender.trials_changed([0])
    before = stored[0].journal.stat().st_size
    sender.trials_changed([0])
    publisher(stored, uri).trials_changed([0])
    assert stored[0].journal.stat().st_size == before


def test_member_that_another_trial_dominates_loses_its_tag(stored, uri):
    study, sender = stored[2], publisher(stored, uri)
    sender.trials_changed([4])
    study.tell_rung(5, 1, measured(0.1, 0.4))
    study.finish(5)
    sender.sweep_state.update(study.record(5))
    sender.trials_changed([4, 5])
    sent = runs(stored, uri)
    assert [sent[name].data.tags["pareto.rungs"] for name in ("t0004", "t0005")] == ["none", "1"]
    assert sent["small"].data.metrics["hypervolume"] == pytest.approx(0.9 * 0.4 + 0.5 * 0.3 + 0.2 * 0.2)


def test_address_of_the_view_is_written_and_removed_when_there_is_none(stored, uri, monkeypatch):
    publisher(stored, uri).trials_changed([0])
    noted = json.loads((stored[0].path / VIEW_FILE).read_text())
    assert noted["uri"] == uri and noted["path"].startswith("/#/experiments/")
    sender = publisher(stored, uri)
    monkeypatch.setattr(sender.tracker, "write_view", lambda sweep: None)
    sender.trials_changed([0])
    assert not (stored[0].path / VIEW_FILE).exists()


def test_trials_are_sent_although_the_address_of_the_view_cannot_be_written(stored, uri, monkeypatch):
    def full(path, value):
        raise OSError("no space left on device")

    sender = publisher(stored, uri)
    monkeypatch.setattr(publisher_module, "write_json", full)
    sender.trials_changed([0])
    assert sorted(runs(stored, uri)) == ["small", "t0000"]


def test_parent_lists_the_data_of_the_sweep(stored, uri):
    publisher(stored, uri).trials_changed([0])
    client = MlflowClient(tracking_uri=uri)
    inputs = client.get_run(runs(stored, uri)["small"].info.run_id).inputs.dataset_inputs
    names = sorted(dataset_input.dataset.name for dataset_input in inputs)
    assert names == ["closed_world-forget", "closed_world-retain"]


def test_leaderboard_follows_the_front_while_the_sweep_runs_but_not_too_often(stored, uri, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(publisher_module.time, "monotonic", lambda: clock[0])
    study, sender = stored[2], publisher(stored, uri)

    def shown():
        return runs(stored, uri)["small"].data.tags["mlflow.note.content"]

    sender.trials_changed([0])
    assert "| t0004 |" in shown() and "| *original* |" in shown()
    study.tell_rung(5, 1, measured(0.1, 0.4))
    study.finish(5)
    update(sender, 5)
    assert "| t0005 |" not in shown()
    clock[0] += LEADERBOARD_EVERY_S
    sender.trials_changed([5])
    assert "| t0005 |" in shown() and "| t0004 |" not in shown()
    assert "over 6 trials, 0 stopped, 1 failed" in shown()


def test_leaderboard_is_not_sent_again_while_the_front_is_unchanged(stored, uri, monkeypatch):
    sender, sent = publisher(stored, uri), []
    monkeypatch.setattr(publisher_module, "LEADERBOARD_EVERY_S", 0.0)
    monkeypatch.setattr(sender.tracker, "sync_leaderboard", lambda counts, text: sent.append(text))
    sender.trials_changed([0])
    sender.trials_changed([1])
    assert len(sent) == 1


def test_leaderboard_is_the_same_during_the_sweep_and_at_its_end(stored, uri, quick_report):
    sender = publisher(stored, uri)
    sender.trials_changed(range(6))
    before = runs(stored, uri)["small"].data.tags["mlflow.note.content"]
    sender.sweep_ended(complete=False)
    assert runs(stored, uri)["small"].data.tags["mlflow.note.content"] == before


def test_stopped_trial_is_finished_for_mlflow_with_its_rungs_and_reason(stored, uri):
    study, sender = stored[2], publisher(stored, uri)
    study.tell_rung(5, 2, measured(0.1, 0.1))
    study.stop(5, "rank 7 of 9")
    update(sender, 5)
    run = runs(stored, uri)["t0005"]
    tags = {key: run.data.tags[key] for key in ("status", "reason", "pareto.rungs")}
    assert run.info.status == "FINISHED"
    assert tags == {"status": "stopped", "reason": "rank 7 of 9", "pareto.rungs": "2"}


def test_worker_seconds_of_all_trials_sum_up_to_those_of_the_status(stored, uri, quick_report):
    folder, sweep, study = stored
    # A dead driver has left t0005 running, and the time that it spent on it counts.
    study = Study.open(folder.journal, sweep)
    number = study.ask().number
    study.tell_rung(number, 1, measured(0.9, 0.9))
    study.stop(number, "budget.trial_time_s = 1 is used up")
    publisher((folder, sweep, study), uri).sweep_ended(complete=True)
    children = [run for name, run in runs(stored, uri).items() if name != "small"]
    status = status_json(sweep, study.records())
    assert sum(run.data.metrics["worker_seconds"] for run in children) == pytest.approx(
        status["worker_seconds"]
    )
    assert status["worker_seconds"] > 0


def test_ended_sweep_has_report_front_and_summary(stored, uri, monkeypatch):
    monkeypatch.setattr(html_report, "draw_picture", lambda path, *what: path.write_text("a picture"))
    folder, _, study = stored
    warnings = []
    publisher(stored, uri, warnings).sweep_ended(complete=True)
    parent = runs(stored, uri)["small"]
    assert warnings == []
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["hypervolume"] == pytest.approx(HYPERVOLUME)
    counts = [parent.data.tags[f"lethe.{status}"] for status in ("finished", "failed", "running")]
    assert counts == ["4", "1", "1"]
    rows = parent.data.tags["mlflow.note.content"].splitlines()[-5:-2]
    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in FRONT]
    front = json.loads((folder.path / "front.json").read_text())
    assert [member["trial_id"] for member in front["front"]] == FRONT
    assert "Pareto front" in (folder.path / "report.html").read_text()
    artifacts = {entry.path for entry in MlflowClient(tracking_uri=uri).list_artifacts(parent.info.run_id)}
    assert artifacts == {"sweep.json", "front.json", "report.html", "front.png"}
    assert len(study.records()) == 6


def test_sweep_with_trials_left_is_killed_in_mlflow(stored, uri, quick_report):
    publisher(stored, uri).sweep_ended(complete=False)
    assert runs(stored, uri)["small"].info.status == "KILLED"


def test_sweep_goes_on_while_mlflow_is_away_and_warns_once(stored, quick_report):
    warnings = []
    away = publisher(stored, AWAY, warnings)
    away.trials_changed([0])
    away.trials_changed([1])
    away.sweep_ended(complete=True)
    assert len(warnings) == 1
    assert "MLflow gets the rest at the end, or at the next `lethe run`" in warnings[0]
    assert (stored[0].path / "report.html").is_file()
    assert [record.mlflow_run_id for record in stored[2].records()] == [None] * 6


def test_trials_that_could_not_be_sent_are_sent_with_the_next_one(stored, uri, monkeypatch):
    warnings = []
    sender = publisher(stored, uri, warnings)
    sync_trial = sender.tracker.sync_trial

    def away(*args):
        raise TrackingError("MLflow is away")

    monkeypatch.setattr(sender.tracker, "sync_trial", away)
    sender.trials_changed([0])
    monkeypatch.setattr(sender.tracker, "sync_trial", sync_trial)
    sender.trials_changed([1])
    assert sorted(runs(stored, uri)) == ["small"] and len(warnings) == 1, "MLflow is not called for a while"
    sender._quiet_until = 0.0
    sender.trials_changed([4])
    assert sorted(runs(stored, uri)) == ["small", "t0000", "t0001", "t0004"]


def test_next_start_sends_what_mlflow_has_missed_and_repeats_nothing(stored, uri, quick_report):
    folder, sweep, study = stored
    publisher(stored, AWAY).sweep_ended(complete=False)
    publisher(stored, uri).sweep_ended(complete=False)
    study.tell_rung(5, 1, measured(0.1, 0.1))
    study.finish(5)
    again = Study.open(folder.journal, sweep)
    publisher((folder, sweep, again), uri).sweep_ended(complete=True)
    sent = runs(stored, uri)
    assert len(sent) == 7
    assert sent["t0005"].info.status == sent["small"].info.status == "FINISHED"
    assert sent["t0005"].data.tags["pareto.front"] == "true"
    curve = MlflowClient(tracking_uri=uri).get_metric_history(sent["small"].info.run_id, "hypervolume")
    assert [metric.step for metric in curve] == [1, 2, 3, 4, 5]


def test_bad_tracking_uri_is_refused_at_once(stored):
    with pytest.raises(
        UserError, match=r"--tracking-uri: .*Allowed: sqlite:////absolute/path/mlflow.db, or a server"
    ):
        publisher(stored, "./mlruns")


def test_password_of_the_tracking_uri_is_never_shown(stored):
    warnings = []
    away = publisher(stored, f"{AWAY}?password=hunter2", warnings)
    away.trials_changed([0])
    view = read_view(stored[0], stored[1], stored[2].records())
    lines = closing_lines(view, stored[0], "https://me:hunter2@mlflow.example")
    assert warnings and "hunter2" not in " ".join(warnings + lines)


def test_front_holds_the_baselines_on_the_test_part(stored):
    folder, sweep, study = stored
    baselines = sweep_front(read_view(folder, sweep, study.records()))["baselines"]
    names = ("forget_true_mass", "utility")
    measured_ones = {name: dict(zip(names, point, strict=True)) for name, point in BASELINES.items()}
    assert baselines == {"prompted": None, "retrained_twin": None, **measured_ones}


def test_front_and_report_do_without_baselines(stored):
    folder, sweep, study = stored
    folder.baselines.unlink()
    assert sweep_front(read_view(folder, sweep, study.records()))["baselines"] == dict.fromkeys(NAMES)
    assert study_view(sweep, folder, study).baselines == {}


def test_publisher_leaves_no_file_in_the_working_folder(stored, uri, quick_report, tmp_path, monkeypatch):
    working_folder = tmp_path / "here"
    working_folder.mkdir()
    monkeypatch.chdir(working_folder)
    publisher(stored, uri).sweep_ended(complete=True)
    assert list(working_folder.iterdir()) == []
