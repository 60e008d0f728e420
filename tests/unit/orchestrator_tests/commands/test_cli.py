import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from orchestrator import cli
from orchestrator.commands import plan
from orchestrator.storage.sweep_folder import SweepFolder
from search_spaces.loading.loader import load_sweep
from tests.support.places import ROOT
from tests.support.sweeps.sweep_on_disk import FRONT, REASON, begin, store

HEAVY = {"torch", "ray", "optuna", "mlflow", "transformers", "deepspeed", "datasets"}
SWEEP = {
    "name": "tiny",
    "model": {"base": "scratch"},
    "data": {
        "benchmark": "closed_world",
        "people": 6,
        "forget_people": 2,
        "attributes": 2,
        "values": 3,
        "phrasings": 2,
    },
    "space": {
        "optimizer.learning_rate": {"log_uniform": [1.0e-4, 1.0e-3]},
        "beliefs": {"choice": ["none", "token"]},
    },
    "search": {"trials": 4},
    "resources": {"workers_per_trial": 1},
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Every command starts in an empty folder, without environment variables of Lethe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    for name in ("LETHE_STORAGE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def file(tmp_path):
    return write(tmp_path)


@pytest.fixture
def stored(tmp_path):
    """A sweep that is running, in the default storage folder."""
    return store(tmp_path / "lethe-runs")


def write(folder, **changes):
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**SWEEP, **changes}))
    return str(path)


def lethe(*arguments):
    """Runs a command that succeeds. Returns: its stdout."""
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def refusal(*arguments):
    """Runs a command that is refused. Returns: the one message on stderr."""
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.output
    return done.stderr


LIST_MODULES = """
import json, sys
from orchestrator.cli import app

try:
    app(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps(sorted(sys.modules)))
"""


def python(*arguments):
    """Runs Python in a new process. Returns: its stdout."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def heavy_imports(*arguments):
    """Returns the heavy packages that a command imports."""
    return sorted(HEAVY.intersection(json.loads(python("-c", LIST_MODULES, *arguments).splitlines()[-1])))


def test_help_answers_without_heavy_imports():
    assert heavy_imports("--help") == []


def test_plan_answers_without_heavy_imports(file):
    assert heavy_imports("plan", file) == []


def test_module_runs_as_a_program():
    assert "Sweeps LLM unlearning" in python("-m", "orchestrator.cli", "--help")


def test_help_lists_every_command():
    text = lethe("--help")
    names = ("validate", "plan", "prepare", "run", "status", "front", "report", "logs", "clean")
    assert all(f" {name} " in text for name in names)


def test_help_shows_defaults_that_depend_on_the_environment():
    text = lethe("run", "--help")
    assert "$LETHE_STORAGE or ./lethe-runs" in text
    assert "$MLFLOW_TRACKING_URI or a SQLite file in the storage folder" in text


def test_validate_counts_trials_keys_and_examples(file):
    assert lethe("validate", file) == f"{file}: valid. 4 trials over 2 keys; 4 forget, 224 retain examples.\n"


def test_validate_finds_a_shipped_sweep_by_its_bare_name():
    assert lethe("validate", "quickstart").startswith("quickstart: valid. 32 trials over 9 keys")


def test_plan_shows_space_lanes_and_what_is_prepared_and_writes_nothing(file, tmp_path):
    text = lethe("plan", file, "--set", "search.trials=7", "--name", "mine")
    assert "search space of mine: 7 trials by tpe" in text
    assert "to prepare: retrained, target" in text
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_plan_looks_for_prepared_models_in_the_storage_folder(file, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "orchestrator.terminal.plan_tables.plan_baselines",
        lambda sweep, models, digest: pytest.fail(f"looked in {models}"),
    )
    arguments = ["plan", file, "--storage", str(tmp_path / "elsewhere")]
    with pytest.raises(pytest.fail.Exception, match="elsewhere/models"):
        CliRunner().invoke(cli.app, arguments, catch_exceptions=False)


def test_status_shows_every_trial_and_reasons_as_written(stored):
    text = lethe("status", "small")
    assert all(f"t{number:04d}" in text for number in range(6))
    assert "failed" in text and REASON in text
    assert "5 of 6 trials done, 0 stopped, 1 failed; " in text and "hypervolume 0.4800" in text


def test_status_as_json_is_data(stored):
    status = json.loads(lethe("status", "small", "--json"))
    assert (status["sweep"], status["finished"], status["failed"], status["running"]) == ("small", 4, 1, 1)


def test_status_of_a_sweep_elsewhere(tmp_path, monkeypatch):
    store(tmp_path / "elsewhere")
    assert "5 of 6" in lethe("status", "small", "--storage", "elsewhere")
    monkeypatch.setenv("LETHE_STORAGE", "elsewhere")
    assert "5 of 6" in lethe("status", "small")


def test_status_works_while_a_driver_runs(stored):
    with stored[0].locked():
        assert "5 of 6" in lethe("status", "small")


def test_front_as_table_json_and_csv_agree(stored):
    table, data = lethe("front", "small"), json.loads(lethe("front", "small", "--json"))
    rows = list(csv.DictReader(io.StringIO(lethe("front", "small", "--csv"))))
    assert [member["trial_id"] for member in data["front"]] == FRONT
    assert [row["trial_id"] for row in rows] == [*FRONT, "original", "retrained"]
    assert all(name in table for name in (*FRONT, "original", "retrained"))
    assert data["baselines"]["retrained"] == {"forget_true_mass": 0.05, "utility": 0.97}


def test_logs_print_the_log_of_a_trial(stored):
    assert lethe("logs", "small", "t0001") == "2026-01-01 00:00:00 log of t0001\n"


def test_report_is_written_again_from_the_study(stored, monkeypatch):
    def write(folder, view):
        assert [record.trial_id for record in view.records] == [f"t{number:04d}" for number in range(6)]
        assert set(view.baselines) == {"original", "retrained"}
        return folder / "report.html", folder / "front.png"

    monkeypatch.setattr("orchestrator.report.html_report.write_report", write)
    folder = stored[0].path
    assert lethe("report", "small") == f"report: {folder}/report.html\npicture: {folder}/front.png\n"


def test_clean_removes_only_with_yes(stored):
    folder = stored[0]
    assert "give --yes to remove this" in lethe("clean", "small")
    assert folder.settings.is_file()
    assert f"removed {folder.path}" in lethe("clean", "small", "--yes")
    assert not folder.path.exists()
    lethe("clean", "--yes")
    assert list(folder.models.iterdir()) == []
    assert lethe("clean") == "nothing to remove\n"


def test_name_description_and_folders_with_brackets_are_shown_as_written(tmp_path):
    folder = tmp_path / "[old] runs :100:"
    store(folder)
    assert f"would remove {folder}/small" in lethe("clean", "small", "--storage", str(folder))


def test_interrupt_says_how_to_go_on(file, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "load", interrupt)
    done = CliRunner().invoke(cli.app, ["validate", file])
    assert done.exit_code == 130
    assert done.stderr == "interrupted: run the same command again to go on\n"


@pytest.mark.parametrize("command", ["validate", "plan", "prepare", "run"])
def test_missing_file_is_refused_with_the_shipped_ones(command):
    message = refusal(command, "quickstrt.yaml")
    assert 'Did you mean "quickstart.yaml"?' in message
    assert "Give the path of a YAML file, or one that comes with Lethe: " in message


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("search.trials", "Write, for example, --set search.trials=32"),
        ("search.trials=0", "Allowed: greater than or equal to 1"),
        ("search.trails=3", 'Did you mean "trials"?'),
        ("search.sampler=tpee", 'Did you mean "tpe"?'),
        ("trial.steps=many", "Allowed: a whole number"),
        ("space.optimizer.learning_rte={uniform: [0.1, 1]}", 'Did you mean "optimizer.learning_rate"?'),
        ("space.beliefs={choice: [none, tokens]}", "Allowed: none, token, sequence, token+sequence"),
        ("space.retain.weight={uniform: [2, 1]}", "space.retain.weight"),
        (
            "search.enqueue=[{beliefs: sequence}]",
            "Correct the entry, or start without any: --set search.enqueue=[]",
        ),
        ("trial.beliefs=token", "Add --set space.beliefs=null"),
        ("objectives={utility: {direction: maximize, reference: 0}}", "needs at least two objectives"),
        ("model.target=./missing", "model.target"),
        ("data={benchmark: tofu, path: ./missing}", "Give TOFU's folder, or locuslab/TOFU for the hub"),
        ("resources.gpus_per_worker=0.5", "two NCCL ranks cannot share a GPU"),
        ("data.forget_people=6", "must be smaller than people"),
        ("name=a/b", "it becomes a folder"),
    ],
)
def test_bad_setting_is_refused_with_a_remedy(file, override, remedy):
    assert remedy in refusal("validate", file, "--set", override)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("name: [", "tiny.yaml:1"),
        ("name: a\nname: b\n", "tiny.yaml:2"),
        ("", "this one is empty"),
        ("- a\n", "this one is a list"),
    ],
)
def test_file_that_is_no_sweep_is_refused_with_its_place(tmp_path, text, place):
    (tmp_path / "tiny.yaml").write_text(text)
    assert place in refusal("validate", "tiny.yaml")


def test_all_problems_of_a_file_come_at_once(file):
    overrides = ("search.trials=0", "trial.epochs=0", "trial.stps=1")
    message = refusal("validate", file, *(text for override in overrides for text in ("--set", override)))
    assert f"{file}: 3 problems:" in message
    assert all(key in message for key in ("search.trials", "trial.epochs", "trial.stps"))


@pytest.mark.parametrize("command", ["validate", "plan", "run"])
def test_bad_data_is_refused_with_file_and_line(tmp_path, command):
    for name, second in (("forget", '{"prompt": '), ("retain", '{"prompt": "c", "response": "d"}')):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"prompt": "a {name}", "response": "b"}}\n{second}\n')
    data = {"benchmark": "local_files", "forget": "forget.jsonl", "retain": "retain.jsonl"}
    message = refusal(command, write(tmp_path, data=data))
    assert "forget.jsonl, line 2" in message
    assert "Write one object per line" in message


def test_plan_refuses_what_does_not_fit_on_this_machine(file):
    message = refusal("plan", file, "--set", "resources.workers_per_trial=4096")
    assert "resources.workers_per_trial" in message and "Set resources.workers_per_trial to" in message


@pytest.mark.parametrize("command", [("status",), ("front",), ("report",), ("logs",), ("clean",)])
def test_unknown_sweep_is_refused_with_the_sweeps_that_exist(stored, command):
    trial = ["t0000"] if command == ("logs",) else []
    message = refusal(*command, "smal", *trial)
    assert 'Did you mean "small"? Allowed: small. Give --storage where sweeps lie elsewhere.' in message


@pytest.mark.parametrize("command", ["status", "front", "report"])
def test_sweep_that_never_started_is_refused_with_the_way_to_start_it(tmp_path, command):
    folder, _, _ = begin(tmp_path / "lethe-runs")
    folder.journal.unlink()
    assert "Start it with `lethe run`" in refusal(command, "small")


@pytest.mark.parametrize(
    ("trial", "remedy"), [("t000", 'Did you mean "t000'), ("7", "Allowed: t0000, t0001, t0002")]
)
def test_unknown_trial_is_refused_with_the_trials_that_exist(stored, trial, remedy):
    assert remedy in refusal("logs", "small", trial)


@pytest.mark.parametrize("arguments", [("clean", "small", "--yes"), ("clean", "--yes")])
def test_clean_is_refused_while_a_driver_runs(stored, arguments):
    with stored[0].locked():
        assert "watch it with `lethe status`" in refusal(*arguments)
    assert stored[0].settings.is_file()


def test_run_is_refused_while_another_driver_runs_the_sweep(file, tmp_path):
    folder = SweepFolder(tmp_path / "lethe-runs", "tiny")
    folder.path.mkdir(parents=True)
    with folder.locked():
        message = refusal("run", file)
    assert "Wait for it to end, watch it with `lethe status`, or give another --name" in message


def test_run_is_refused_with_the_difference_when_settings_changed(file, tmp_path):
    sweep = load_sweep(Path(file))
    begin(tmp_path / "lethe-runs", sweep)
    (tmp_path / "lethe-runs" / sweep.name / "trials" / "t0000").mkdir(parents=True, exist_ok=True)
    message = refusal("run", file, "--set", "trial.seed=3")
    assert "trial.seed: 0 -> 3" in message
    assert "Undo the change, or start a new sweep with --name" in message


@pytest.mark.parametrize("command", ["prepare", "run"])
def test_storage_that_cannot_be_written_is_refused(file, tmp_path, command):
    message = refusal(command, file, "--storage", file)
    assert "Give a folder that you may write with --storage or $LETHE_STORAGE" in message


@pytest.mark.parametrize("way", ["option", "variable"])
def test_retired_file_store_is_refused_before_anything_starts(file, monkeypatch, way):
    if way == "variable":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    message = refusal("run", file, *(["--tracking-uri", "./mlruns"] if way == "option" else []))
    assert "--tracking-uri" in message and "Allowed: sqlite:////absolute/path/mlflow.db" in message


@pytest.mark.parametrize(
    "arguments", [("front",), ("stauts", "small"), ("status", "small", "--jsn"), ("logs", "small")]
)
def test_wrong_usage_has_exit_status_two_and_no_traceback(arguments):
    done = CliRunner().invoke(cli.app, list(arguments))
    assert done.exit_code == 2
    assert "Traceback" not in done.output and "Usage" in done.output


def test_message_goes_to_stderr_and_data_to_stdout(stored):
    done = CliRunner().invoke(cli.app, ["front", "smal", "--json"])
    assert done.stdout == "" and done.stderr


@pytest.mark.parametrize(
    ("command", "old"), [("confirm", "--pick"), ("audit", "--front"), ("dynamics", "--at")]
)
def test_old_spelling_of_an_option_is_understood_and_not_shown(command, old):
    """Of commit 1805e04; `test_earlier_sweep.py` uses one."""
    (option,) = [one for one in get_command(cli.app).commands[command].params if old in one.opts]
    assert option.hidden
