"""A sweep that spends well, over the command line: early stopping, budgets, `lethe stop`, `lethe extend`."""

import json

import pytest
from optuna.trial import TrialState

from tests.integration.launch import lethe
from tests.integration.small_sweeps import SWEEP, child_runs, driver, finished_trials, front_of, load_study, wait_for, write_sweep

SPREAD = [
    {"forget.method": "wga", "beliefs": "none", "optimizer.learning_rate": rate}
    for rate in (1.0e-4, 1.0e-2, 3.0e-3, 2.0e-4, 1.0e-3, 5.0e-4)
]


def spending(folder, name, **changes):
    trial = {**SWEEP["trial"], "steps": 6, "rungs": 3}
    search = {"trials": len(SPREAD), "sampler": "random", "enqueue": SPREAD}
    return write_sweep(folder, **{"name": name, "trial": trial, "search": search, **changes})


def test_low_ranking_trials_stop_at_their_rung_and_the_accounts_agree(finished, tmp_path):
    _, storage, _ = finished
    file = spending(tmp_path, "halving", early_stopping={"reduction": 2.0, "shield_frac": 1.0})
    lethe("run", str(file), storage=storage)
    status = json.loads(lethe("status", "halving", "--json", storage=storage).stdout)
    states = [trial.state for trial in load_study(storage, "halving").get_trials()]
    assert states.count(TrialState.PRUNED) == status["stopped"] >= 1
    assert states.count(TrialState.COMPLETE) == status["finished"] >= 1
    stopped = [record for record in status["records"] if record["status"] == "stopped"]
    assert all("at rung" in record["reason"] for record in stopped)
    children = child_runs(storage, "halving")
    tracked = sum(run.data.metrics["worker_seconds"] for run in children)
    assert status["worker_seconds"] == pytest.approx(tracked, rel=0.01)
    assert {run.info.run_name for run in children if run.data.tags["status"] == "stopped"} == {record["trial_id"] for record in stopped}
    for member in front_of(storage, "halving")["front"]:
        assert (storage / "halving" / "trials" / member["trial_id"] / "weights" / f"rung{member['rung']}").is_dir()


def test_sweep_that_is_asked_to_stop_ends_at_the_next_rung_and_goes_on_later(finished, tmp_path):
    _, storage, _ = finished
    file = spending(tmp_path, "halted")
    output = tmp_path / "first.txt"
    with driver(file, storage, output) as process:
        wait_for(lambda: finished_trials(storage, "halted") >= 1, 300)
        lethe("stop", "halted", storage=storage)
        assert process.wait(60) == 0
    assert "asked to stop by `lethe stop`" in output.read_text()
    before = [trial for trial in load_study(storage, "halted").get_trials() if trial.state.is_finished()]
    assert len(before) < len(SPREAD)
    refused = lethe("stop", "halted", storage=storage, check=False)
    assert refused.returncode == 2
    assert "no driver is running" in refused.stderr
    lethe("run", str(file), storage=storage)
    after = load_study(storage, "halted").get_trials()
    assert len(after) == len(SPREAD) and all(trial.state.is_finished() for trial in after)
    assert [trial.user_attrs["end"] for trial in after[: len(before)]] == [trial.user_attrs["end"] for trial in before]


def test_budget_ends_a_sweep_within_one_trial_and_extend_lifts_it(finished, tmp_path):
    _, storage, _ = finished
    file = spending(tmp_path, "budgeted", budget={"worker_hours": 1.0e-6})
    done = lethe("run", str(file), storage=storage)
    assert "budget.worker_hours = 1e-06 is used up" in done.stdout
    assert len(load_study(storage, "budgeted").get_trials()) == 1
    refused = lethe("extend", "budgeted", "--trials", "2", storage=storage, check=False)
    assert refused.returncode == 2
    assert "can only be raised" in refused.stderr
    done = lethe("extend", "budgeted", "--worker-hours", "5", "--trials", "+1", storage=storage)
    assert len(load_study(storage, "budgeted").get_trials()) == len(SPREAD) + 1
    assert "Pareto front" in done.stdout
