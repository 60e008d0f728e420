"""A sweep begun before the code went into rooms (commit 1805e04) goes on with today's code: see
`tests/support/sweeps/earlier`."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from orchestrator.followups.audits import plan_audits
from orchestrator.followups.reproduction import NOT_COMPARED
from orchestrator.storage.followup_records import Subject, read_audits
from orchestrator.storage.sweep_folder import open_sweep
from orchestrator.tracking.tracked_sweep import read_tracked_sweep, read_tracked_trials
from orchestrator.tracking.tracking_store import EXPERIMENT
from search_spaces.settings.evaluation_settings import EvaluationSettings
from search_spaces.settings.probe_settings import PROBES
from tests.support.local_lanes import plan_of
from tests.support.processes.launch import lethe, lethe_here
from tests.support.sweeps.earlier.moved_sweep import unpack_earlier_sweep
from tests.support.sweeps.small_sweeps import (
    assert_none_repeated,
    child_runs,
    ended_trials,
    front_of,
    load_study,
)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    return unpack_earlier_sweep(tmp_path_factory.mktemp("earlier"))


@pytest.fixture
def fresh(tmp_path):
    """One that nobody has resumed."""
    return unpack_earlier_sweep(tmp_path)


@pytest.fixture(scope="module")
def resumed(earlier, head):
    """The sweep's start with today's code, and how everything was before."""
    before = SimpleNamespace(
        ended=ended_trials(earlier.storage, "earlier"),
        models=names_in(earlier.storage / "models"),
        status=json.loads(lethe_here("status", "earlier", "--json", storage=earlier.storage).stdout),
    )
    done = lethe("run", str(earlier.file), storage=earlier.storage, **head.joined)
    return SimpleNamespace(before=before, done=done)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rungs_of(attributes):
    return [attributes[key] for key in sorted(attributes) if key.startswith("rung:")]


def without_times(metrics):
    return {name: value for name, value in metrics.items() if name not in NOT_COMPARED}


def earlier_trials(earlier):
    """What the old code ended with, by number."""
    return list(earlier.ended["trials"].values())


def same_machine(earlier) -> bool:
    """Whether sums of floats come out as on the machine that the archive was made on."""
    models = {
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    }
    return earlier.ended["machine"] == [
        *sorted(models),
        torch.backends.cpu.get_cpu_capability(),
        torch.__version__,
    ]


def test_status_tells_the_trials_of_the_old_driver(resumed):
    found = resumed.before.status
    assert (found["finished"], found["failed"], found["running"]) == (3, 0, 1)


def test_what_was_there_is_not_made_again(earlier, resumed):
    assert "3 of 5 trials are done, 1 were running" in resumed.done.stdout
    assert "preparing" not in resumed.done.stdout and "measuring" not in resumed.done.stdout
    assert names_in(earlier.storage / "models") == resumed.before.models
    assert len(resumed.before.ended) == 3
    assert_none_repeated(resumed.before.ended, earlier.storage, "earlier")


def test_interrupted_trial_goes_on_from_its_checkpoint(earlier, resumed):
    said = (earlier.folder / "trials" / "t0003" / "log.txt").read_text()
    assert "goes on at step 1 of 2" in said
    assert "is ignored" not in said
    assert not (earlier.folder / "trials" / "t0003" / "checkpoint").exists()


def test_all_trials_end_with_the_numbers_of_the_old_code(earlier, resumed):
    trials = load_study(earlier.storage, "earlier").get_trials()
    for trial, then in zip(trials, earlier_trials(earlier), strict=True):
        assert trial.params == then["params"]
        # A seed decides everything inside a trial, on one kind of machine.
        exact = trial.number in resumed.before.ended or same_machine(earlier)
        margin = {"rel": 0, "abs": 0} if exact else {"rel": 0.01, "abs": 0.001}
        assert trial.values == pytest.approx(then["values"], **margin)
        for metrics, before in zip(rungs_of(trial.user_attrs), then["rungs"], strict=True):
            kept = without_times(before)
            assert {name: metrics[name] for name in kept} == pytest.approx(kept, **margin)


def test_front_and_report_hold_old_and_new_results(earlier, resumed):
    front, then = front_of(earlier.storage, "earlier"), earlier.ended["front"]
    assert [member["name"] for member in front["front"]] == [member["name"] for member in then["front"]]
    assert front["hypervolume"] == pytest.approx(then["hypervolume"], rel=0.01)
    assert front["audits"].keys() == then["audits"].keys() == {"original", "retrained", "t0001"}
    report = (earlier.folder / "report.html").read_text()
    assert "Is it really forgotten?" in report and "t0004" in report


def test_mlflow_goes_on_with_the_runs_of_the_old_driver(earlier, resumed):
    then = {member["trial_id"]: member["mlflow_run_id"] for member in earlier.ended["front"]["front"]}
    runs = {run.info.run_name: run.info for run in child_runs(earlier.storage, "earlier")}
    assert sorted(runs) == [f"t{number:04d}" for number in range(5)]
    assert {run.status for run in runs.values()} == {"FINISHED"}
    assert all(runs[name].run_id == then[name] for name in ("t0000", "t0001", "t0002"))


def test_mlflow_of_the_old_driver_tells_of_the_sweep_without_its_folder(fresh):
    uri = f"sqlite:///{fresh.storage / 'mlflow.db'}"
    assert read_tracked_sweep(uri, EXPERIMENT, "earlier").settings == open_sweep(fresh.storage, "earlier")[1]
    tracked = read_tracked_trials(uri, EXPERIMENT, "earlier")[:3]
    for trial, then in zip(tracked, earlier_trials(fresh)[:3], strict=True):
        assert trial.params == then["params"]
        assert [without_times(metrics) for metrics in trial.rungs] == [
            without_times(metrics) for metrics in then["rungs"]
        ]


def test_weights_go_and_stay_as_they_did(earlier, resumed):
    trials = earlier.folder / "trials"
    kept = {str(path.relative_to(trials)) for path in trials.glob("*/weights/*")}
    not_in_the_archive = {"t0000/weights/rung1", "t0000/weights/rung2", "t0002/weights/rung1"}
    assert kept == set(earlier.ended["weights"]) - not_in_the_archive
    assert "t0001/weights/rung2" not in kept, "it left the front, and was there"


def test_old_audits_count_as_made(fresh):
    folder, sweep = open_sweep(fresh.storage, "earlier")
    plan = plan_of(sweep, folder.models)
    subjects = [
        Subject("original", plan.original.folder),
        Subject("retrained", plan.retrained.folder),
        Subject("t0001", str(folder.weights("t0001") / "rung2"), 2),
    ]
    every = EvaluationSettings(probes=PROBES, probe=sweep.evaluation.probe)
    tasks = plan_audits(subjects, sweep, every, plan.retrained.measurement, folder)
    assert all(task.done for task in tasks)
    assert [task.read() for task in tasks] == read_audits(folder)


def test_model_that_the_old_code_kept_is_exported(earlier, resumed, tmp_path):
    lethe("export", "earlier", str(tmp_path / "model"), "--trial", "t0001@1", storage=earlier.storage)
    kept = earlier.folder / "trials" / "t0001" / "weights" / "rung1" / "model.safetensors"
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == kept.read_bytes()
    evidence = json.loads((tmp_path / "model" / "lethe_evidence.json").read_text())
    assert evidence["trial"] == "t0001@1" and evidence["versions_when"] == "at the sweep"


@pytest.mark.soak
def test_confirmations_and_audits_go_on_beside_the_old_ones(fresh, head):
    file = fresh.folder / "confirmations.json"
    before = json.loads(file.read_text())
    done = lethe("confirm", "earlier", "--pick", "knee", "--seeds", "1", storage=fresh.storage)
    assert "starting Ray" not in done.stdout and "1 repetitions, 0 failed" in done.stdout
    assert json.loads(file.read_text()) == before
    more = ("confirm", "earlier", "--trial", "knee", "--seeds", "2")
    done = lethe(*more, storage=fresh.storage, **head.joined)
    assert "confirming: 1 repetitions" in done.stdout
    first, second = json.loads(file.read_text())
    assert [first] == before and first.keys() == second.keys() and second["reason"] is None

    done = lethe("audit", "earlier", "--trial", "knee", "--json", storage=fresh.storage)
    assert "starting Ray" not in done.stderr
    shown = {one["name"]: one["metrics"] for one in json.loads(done.stdout)}
    assert shown.keys() == {"original", "retrained", "t0001"}
    old = names_in(fresh.folder / "audits")
    lethe("audit", "earlier", "--trial", "t0002", storage=fresh.storage, **head.joined)
    assert len(names_in(fresh.folder / "audits")) == len(old) + 1
    assert front_of(fresh.storage, "earlier")["audits"].keys() == {"original", "retrained", "t0001", "t0002"}


@pytest.mark.soak
def test_finished_trial_of_the_old_code_is_reproduced_bit_for_bit(fresh, head):
    if not same_machine(fresh):
        pytest.skip("the archive was made on another kind of machine")
    done = lethe("reproduce", "earlier", "t0001", storage=fresh.storage, **head.joined)
    assert "t0001 is identical: " in done.stdout
