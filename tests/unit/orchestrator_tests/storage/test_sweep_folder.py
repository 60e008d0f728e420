import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.storage.sweep_folder import SweepFolder, differences, open_sweep, storage_root, sweep_names
from search_spaces.user_errors import UserError
from tests.support.sweeps.sweep_on_disk import small_sweep
from trainables.durable_files import write_json


def changed(**trial):
    return small_sweep(trial={"epochs": 8, "rungs": 4, **trial})


def test_storage_root_is_what_was_given_then_the_variable_then_a_folder_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LETHE_STORAGE", raising=False)
    assert storage_root(None) == tmp_path / "lethe-runs"
    monkeypatch.setenv("LETHE_STORAGE", "elsewhere")
    assert storage_root(None) == tmp_path / "elsewhere"
    assert storage_root(tmp_path / "given") == tmp_path / "given"


def test_storage_root_of_a_job_is_where_it_outlives_the_job(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LETHE_STORAGE", raising=False)
    assert storage_root(None) == tmp_path / "lethe-runs"
    assert storage_root(Path("~/other")) == tmp_path / "other"
    monkeypatch.setenv("LETHE_STORAGE", str(tmp_path / "shared"))
    assert storage_root(None) == tmp_path / "shared"
    with pytest.raises(UserError, match=r"--storage: a relative folder.*absolute folder that all nodes"):
        storage_root(Path("lethe-runs"))
    monkeypatch.setenv("LETHE_STORAGE", "lethe-runs")
    with pytest.raises(UserError, match="LETHE_STORAGE: a relative folder"):
        storage_root(None)


def test_create_takes_the_same_file_from_another_upload_of_the_job(tmp_path):
    folder = SweepFolder(tmp_path, "small")
    upload = "/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_"
    first, same, other = (
        small_sweep(model={"base": "scratch", "target": f"{upload}{path}"})
        for path in ("0a1/model", "b2c/model", "b2c/other")
    )
    folder.create(first, "small.yaml")
    folder.trial("t0000").mkdir(parents=True)
    assert folder.create(same, "small.yaml") is True
    with pytest.raises(UserError, match=r"model\.target"):
        folder.create(other, "small.yaml")


def test_create_says_whether_the_sweep_was_there(tmp_path):
    folder = SweepFolder(tmp_path / "a" / "b", "small")
    assert folder.create(small_sweep(), "small.yaml") is False
    assert folder.create(small_sweep(), "small.yaml") is True
    assert [path.name for path in folder.path.iterdir()] == ["sweep.json"]


def test_create_takes_more_trials_for_the_same_sweep(tmp_path):
    folder = SweepFolder(tmp_path, "small")
    folder.create(small_sweep(), "small.yaml")
    assert folder.create(small_sweep(search={"trials": 60, "sampler": "random"}), "small.yaml") is True
    assert open_sweep(tmp_path, "small")[1].search.trials == 60


def test_create_takes_another_budget_for_the_same_sweep(tmp_path):
    folder = SweepFolder(tmp_path, "small")
    folder.create(small_sweep(budget={"failures": 3}), "small.yaml")
    folder.trial("t0000").mkdir(parents=True)
    assert folder.create(small_sweep(budget={"worker_hours": 2.0}), "small.yaml") is True
    budget = open_sweep(tmp_path, "small")[1].budget
    assert (budget.failures, budget.worker_hours) == (None, 2.0)


@pytest.mark.parametrize(
    "block", [{"early_stopping": {}}, {"constraints": {"utility": {"at_least": 0.4}}}], ids=str
)
def test_create_refuses_to_change_the_rules_of_a_sweep_that_has_begun(tmp_path, block):
    folder = SweepFolder(tmp_path, "small")
    folder.create(small_sweep(), "small.yaml")
    folder.trial("t0000").mkdir(parents=True)
    with pytest.raises(UserError, match=f"  {next(iter(block))}"):
        folder.create(small_sweep(**block), "small.yaml")


def test_create_refuses_other_settings_under_the_same_name_and_keeps_the_old_ones(tmp_path):
    folder = SweepFolder(tmp_path, "small")
    folder.create(small_sweep(), "small.yaml")
    folder.trial("t0000").mkdir(parents=True)
    with pytest.raises(UserError, match="start a new sweep with --name") as caught:
        folder.create(changed(seed=3, steps=5), "small.yaml")
    assert "trial.seed: 0 -> 3" in str(caught.value)
    assert "trial.steps: None -> 5" in str(caught.value)
    assert str(caught.value).startswith("small.yaml: name: ")
    assert open_sweep(tmp_path, "small")[1] == small_sweep()


def test_create_takes_mended_settings_until_the_first_trial_has_begun(tmp_path):
    folder = SweepFolder(tmp_path, "small")
    folder.create(small_sweep(), "small.yaml")
    folder.journal.touch()
    assert folder.create(changed(seed=3), "small.yaml") is False
    assert open_sweep(tmp_path, "small")[1] == changed(seed=3)
    assert not folder.journal.exists()


def test_refused_second_driver_changes_nothing(tmp_path):
    folder = SweepFolder(tmp_path, "small")
    more = small_sweep(search={"trials": 60, "sampler": "random"})
    refused = pytest.raises(UserError, match="another driver")
    with folder.opened(small_sweep(), "small.yaml"), refused, folder.opened(more, "small.yaml"):
        raise AssertionError("two drivers at a time")
    assert open_sweep(tmp_path, "small")[1] == small_sweep()


def test_create_says_what_to_do_where_it_cannot_write(tmp_path):
    (tmp_path / "file").touch()
    remedy = r"Give a folder that you may write with --storage or \$LETHE_STORAGE"
    with pytest.raises(UserError, match=remedy):
        SweepFolder(tmp_path / "file", "small").create(small_sweep(), "small.yaml")


def test_open_sweep_reads_back_what_was_created(tmp_path):
    SweepFolder(tmp_path, "small").create(small_sweep(), "small.yaml")
    assert open_sweep(tmp_path, "small") == (SweepFolder(tmp_path, "small"), small_sweep())


def test_open_sweep_names_the_sweeps_there_are(tmp_path):
    for name in ("small", "other"):
        SweepFolder(tmp_path, name).create(small_sweep(name=name), "small.yaml")
    (tmp_path / "models").mkdir()
    assert sweep_names(tmp_path) == ["other", "small"]
    with pytest.raises(UserError, match=r'Did you mean "small"\? Allowed: other, small. Give --storage'):
        open_sweep(tmp_path, "smal")


def test_open_sweep_says_that_there_is_none_yet(tmp_path):
    with pytest.raises(UserError, match="Allowed: none yet"):
        open_sweep(tmp_path / "missing", "small")


def test_second_driver_is_kept_out_until_the_first_ends(tmp_path):
    folder = SweepFolder(tmp_path, "small")
    folder.create(small_sweep(), "small.yaml")
    refused = pytest.raises(UserError, match="watch it with `lethe status`")
    with folder.locked():
        with refused, SweepFolder(tmp_path, "small").locked():
            pass
        with SweepFolder(tmp_path, "small-too").locked():
            pass
    with folder.locked():
        pass


def test_is_locked_says_whether_a_driver_runs_and_keeps_no_lock(tmp_path):
    folder = SweepFolder(tmp_path, "small")
    folder.create(small_sweep(), "small.yaml")
    assert not folder.is_locked()
    with folder.locked():
        assert SweepFolder(tmp_path, "small").is_locked()
    assert not folder.is_locked()
    with folder.locked():
        pass


DRIVER = """
import sys, time
from pathlib import Path
from orchestrator.storage.sweep_folder import SweepFolder

with SweepFolder(Path(sys.argv[1]), "small").locked():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_lock_ends_with_a_driver_that_is_killed(tmp_path):
    folder = SweepFolder(tmp_path, "small")
    folder.create(small_sweep(), "small.yaml")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match="another driver is running sweep"), folder.locked():
            pass
        child.send_signal(signal.SIGKILL)
    with folder.locked():
        pass


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1}, {"a": 1}, {}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, {"a.c": (2, 3)}),
        ({"a": 1}, {"b": 1}, {"a": (1, None), "b": (None, 1)}),
        ({"a": {"b": 1}}, {"a": 5}, {"a": ({"b": 1}, 5)}),
        ({"a": [1, 2]}, {"a": [1, 2]}, {}),
        ({}, {"a": {"b": 1}}, {"a": (None, {"b": 1})}),
    ],
)
def test_differences_name_dotted_keys_with_both_values(old, new, expected):
    assert differences(old, new) == expected


def test_write_json_leaves_the_old_file_when_it_cannot_write_the_new_one(tmp_path):
    path = tmp_path / "deep" / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in path.parent.iterdir()] == ["value.json"]


def test_files_of_a_trial_lie_in_its_own_folder(tmp_path):
    folder = SweepFolder(tmp_path, "small")
    assert folder.weights("t0001").parent == folder.trial_log("t0001").parent == folder.trial("t0001")
    assert folder.trial("t0001").is_relative_to(folder.path)
    assert not folder.models.is_relative_to(folder.path)


def test_kept_weights_are_the_whole_folders_of_a_trials_rungs(tmp_path):
    folder = SweepFolder(tmp_path, "small")
    assert folder.kept_weights("t0001") == []
    for name in ("rung1", "rung12", "rung2.partial", "other"):
        (folder.weights("t0001") / name).mkdir(parents=True)
    (folder.weights("t0002") / "rung3").mkdir(parents=True)
    assert {path.name for path in folder.kept_weights("t0001")} == {"rung1", "rung12"}


def test_create_takes_system_metrics_turned_on_or_off_for_the_same_sweep(tmp_path):
    folder = SweepFolder(tmp_path, "small")
    folder.create(small_sweep(), "small.yaml")
    folder.trial("t0000").mkdir(parents=True)
    assert folder.create(small_sweep(tracking={"system_metrics_s": 10}), "small.yaml") is True
    assert json.loads(folder.settings.read_text())["tracking"] == {"system_metrics_s": 10.0}
