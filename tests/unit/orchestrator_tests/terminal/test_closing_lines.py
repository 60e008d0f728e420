import shlex

import pytest

from orchestrator.pareto.sweep_view import read_view
from orchestrator.storage.provenance import redacted
from orchestrator.terminal.closing_lines import closing_lines
from orchestrator.tracking.tracking_store import VIEW_FILE, default_tracking_uri
from tests.support.sweeps.sweep_on_disk import REASON, measured, store
from trainables.durable_files import write_json


@pytest.fixture
def stored(tmp_path):
    return store(tmp_path)


def lines_of(stored, uri):
    folder, sweep, study = stored
    return closing_lines(read_view(folder, sweep, study.records()), folder, uri)


def test_closing_lines_tell_front_failures_and_where_to_look(stored):
    folder = stored[0]
    lines = lines_of(stored, default_tracking_uri(folder.root))
    assert lines[:6] == [
        "Pareto front on the test part: 3 of 6 trials, hypervolume 0.4800",
        "  t0004: forget_true_mass 0.2000, utility 0.3000",
        "  t0001: forget_true_mass 0.5000, utility 0.7000",
        "  t0000: forget_true_mass 0.8000, utility 0.9000",
        "  original model: forget_true_mass 0.9500, utility 0.9800",
        "  retrained model: forget_true_mass 0.0500, utility 0.9700",
    ]
    assert lines[6:] == [
        f"1 trial failed; the first, t0003: {REASON}",
        f"table: lethe front small --storage {folder.root}",
        f"report: {folder.path}/report.html (picture: {folder.path}/front.png)",
        f"MLflow: mlflow ui --backend-store-uri sqlite:///{folder.root}/mlflow.db, then open http://127.0.0.1:5000",
    ]


def test_closing_lines_name_members_by_rung_and_count_what_was_stopped(stored):
    study = stored[2]
    for rung, point in enumerate([(0.9, 0.95), (0.1, 0.1)], start=1):
        study.tell_rung(5, rung, measured(*point))
    study.stop(5, "rank 7 of 9")
    lines = lines_of(stored, "http://mlflow.example")
    assert lines[0].startswith("Pareto front on the test part: 4 (5 rungs) of 6 trials, hypervolume ")
    assert [line.strip().split(":")[0] for line in lines[1:6]] == [
        "t0005",
        "t0004",
        "t0001",
        "t0000",
        "t0005@1",
    ]
    assert "1 trial stopped at a rung before the last: see `lethe status small`" in lines


def test_closing_lines_leave_out_the_default_storage_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stored = store(tmp_path / "lethe-runs")
    assert "table: lethe front small" in lines_of(stored, "http://mlflow.example")


def test_closing_lines_can_be_pasted_into_a_shell_whatever_the_folder(tmp_path):
    stored = store(tmp_path / "my runs")
    folder = stored[0]
    lines = lines_of(stored, default_tracking_uri(folder.root))
    commands = [
        shlex.split(line.partition(": ")[2].partition(", then")[0])
        for line in lines
        if line.startswith(("table", "MLflow"))
    ]
    assert commands[0][-1] == str(folder.root)
    assert commands[1][-1] == f"sqlite:///{folder.root}/mlflow.db"


def test_closing_lines_name_a_server_and_the_experiment(stored):
    assert lines_of(stored, "http://mlflow.example:5000")[-1] == (
        "MLflow: http://mlflow.example:5000, experiment lethe, run small"
    )


def note_view(stored, uri):
    write_json(stored[0].path / VIEW_FILE, {"uri": uri, "path": "/#/experiments/1/runs?viewStateShareKey=v"})


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (
            "https://me:hunter2@mlflow.example:5000",
            "https://mlflow.example:5000/#/experiments/1/runs?viewStateShareKey=v",
        ),
        (
            "http://mlflow.example/team/",
            "http://mlflow.example/team/#/experiments/1/runs?viewStateShareKey=v",
        ),
    ],
)
def test_closing_lines_give_the_address_of_the_saved_view_without_the_password(stored, address, shown):
    note_view(stored, redacted(address))
    assert lines_of(stored, address)[-1] == f"MLflow: {shown} (experiment lethe, run small)"


def test_closing_lines_give_the_page_of_the_saved_view_beside_the_command(stored):
    uri = default_tracking_uri(stored[0].root)
    note_view(stored, uri)
    last = lines_of(stored, uri)[-1]
    assert last.endswith(", then open http://127.0.0.1:5000/#/experiments/1/runs?viewStateShareKey=v")


def test_closing_lines_forget_the_view_of_another_server(stored):
    note_view(stored, "http://other.example")
    assert "viewStateShareKey" not in lines_of(stored, "http://mlflow.example")[-1]


def test_closing_lines_of_a_sweep_that_all_failed(tmp_path):
    folder, sweep, study = store(tmp_path)
    write_json(folder.baselines, {})
    records = [record for record in study.records() if record.status == "failed"]
    lines = closing_lines(read_view(folder, sweep, records), folder, "http://mlflow.example")
    assert lines[0] == "Pareto front on the test part: 0 of 1 trials, hypervolume 0.0000"
    assert lines[1].endswith(REASON)
