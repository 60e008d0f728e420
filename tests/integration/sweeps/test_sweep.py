"""Whole sweeps through the command line: real Ray, real ZeRO-3 workers, a real study and a real MLflow
store."""

import json
from itertools import pairwise

import mlflow
import optuna

from tests.support.processes.launch import lethe, lethe_here
from tests.support.sweeps.small_sweeps import (
    SWEEP,
    assert_none_repeated,
    child_runs,
    front_of,
    load_study,
    write_sweep,
)

TRIALS = SWEEP["search"]["trials"]


def test_sweep_ends_with_a_front_a_report_and_the_way_to_mlflow(finished):
    _, storage, done = finished
    front = front_of(storage, "tiny")
    assert front["trials"] == 5
    assert front["failed"] == 0
    assert front["front"]
    assert set(front["baselines"]) == {"original", "prompted", "retrained", "retrained_twin"}
    assert (
        front["baselines"]["original"]["forget_true_mass"]
        > front["baselines"]["retrained"]["forget_true_mass"]
    )
    for member in front["front"]:
        assert set(member) == {"name", "trial_id", "rung", "objectives", "params", "mlflow_run_id"}
        assert member["mlflow_run_id"]
    last = done.stdout.splitlines()[-2:]
    assert last[0].startswith("report: ")
    assert "mlflow ui --backend-store-uri sqlite:///" in last[1]
    assert (storage / "tiny" / "report.html").stat().st_size > 10_000
    assert (storage / "tiny" / "front.png").stat().st_size > 10_000


def test_study_holds_both_objectives_for_every_finished_trial(finished):
    _, storage, _ = finished
    trials = load_study(storage, "tiny").get_trials()
    assert [trial.state for trial in trials] == [optuna.trial.TrialState.COMPLETE] * 5
    assert all(len(trial.values) == 2 for trial in trials)
    assert trials[0].params["optimizer.learning_rate"] == 0.005


def test_mlflow_holds_one_child_per_trial_with_metrics_per_rung(finished):
    _, storage, _ = finished
    client = mlflow.MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    children = child_runs(storage, "tiny")
    assert len(children) == 5
    members = {member["mlflow_run_id"] for member in front_of(storage, "tiny")["front"]}
    for run in children:
        assert run.data.tags["status"] == "finished"
        assert run.data.tags["pareto.front"] == str(run.info.run_id in members).lower()
        assert len(client.get_metric_history(run.info.run_id, "validation/forget_true_mass")) == 2


def test_weights_are_kept_for_members_of_the_front_and_load_as_a_model(finished):
    from transformers import AutoModelForCausalLM

    _, storage, _ = finished
    members = {(member["trial_id"], member["rung"]) for member in front_of(storage, "tiny")["front"]}
    trials = storage / "tiny" / "trials"
    kept = {(path.parents[1].name, int(path.name[4:])) for path in trials.glob("*/weights/rung*")}
    assert members <= kept
    assert len(kept) < 10, "weights of dominated rungs were left"
    name, rung = members.pop()
    AutoModelForCausalLM.from_pretrained(trials / name / "weights" / f"rung{rung}")


def test_run_again_says_that_all_is_done_and_changes_nothing(finished):
    file, storage, _ = finished
    before = front_of(storage, "tiny")
    done = lethe("run", str(file), storage=storage)
    assert "5 of 5 trials are done" in done.stdout
    assert front_of(storage, "tiny") == before
    assert len(child_runs(storage, "tiny")) == 5


def test_views_of_a_finished_sweep(finished):
    _, storage, _ = finished
    status = json.loads(lethe_here("status", "tiny", "--json", storage=storage).stdout)
    assert (status["finished"], status["failed"], status["running"]) == (5, 0, 0)
    rows = lethe_here("front", "tiny", "--csv", storage=storage).stdout.splitlines()
    assert rows[0].startswith("trial_id,forget_true_mass,utility")
    assert "rung 2" in lethe_here("logs", "tiny", "t0000", storage=storage).stdout
    missing = lethe_here("logs", "tiny", "t0042", storage=storage, check=False)
    assert missing.returncode == 2
    assert "t0000" in missing.stderr
    assert "report.html" in lethe_here("report", "tiny", storage=storage).stdout


def test_changed_settings_under_the_same_name_are_refused_with_the_difference(finished, tmp_path):
    _, storage, _ = finished
    changed = write_sweep(tmp_path, trial={**SWEEP["trial"], "seed": 3})
    done = lethe("run", str(changed), storage=storage, check=False)
    assert done.returncode == 2
    assert "trial.seed: 0 -> 3" in done.stderr
    assert "--name" in done.stderr


def test_more_workers_than_the_machine_has_are_refused_before_a_worker_starts(finished, head, tmp_path):
    _, storage, _ = finished
    greedy = write_sweep(tmp_path, name="greedy", resources={"workers_per_trial": 512})
    done = lethe("run", str(greedy), storage=storage, check=False, **head.joined)
    assert done.returncode == 2
    assert "resources.workers_per_trial" in done.stderr
    assert "at most" in done.stderr


def test_killed_driver_loses_no_finished_trial_and_repeats_none(viewed):
    """SIGKILL in mid-sweep, then the same command; prepared models come from the finished sweep's cache."""
    assert viewed.second.returncode == 2
    assert "another driver" in viewed.second.stderr
    assert 1 <= len(viewed.before) < TRIALS
    assert "trials are done" in viewed.done.stdout
    after = load_study(viewed.storage, "viewed").get_trials()
    assert [trial.state for trial in after] == [optuna.trial.TrialState.COMPLETE] * TRIALS
    assert_none_repeated(viewed.before, viewed.storage, "viewed")
    children = child_runs(viewed.storage, "viewed", viewed.uri)
    assert sorted(run.info.run_name for run in children) == [f"t{number:04d}" for number in range(TRIALS)]
    assert {run.info.status for run in children} == {"FINISHED"}


def test_two_lanes_side_by_side_give_the_results_of_one_lane(finished, viewed):
    one, two = (load_study(viewed.storage, name).get_trials() for name in ("tiny", "viewed"))
    assert [trial.params for trial in one] == [trial.params for trial in two]
    assert [trial.values for trial in one] == [trial.values for trial in two]
    spans = sorted((trial.user_attrs["started"], trial.user_attrs["end"]["at"]) for trial in two)
    assert any(later[0] < earlier[1] for earlier, later in pairwise(spans)), "no two trials overlapped"
