"""One sweep that spends well, over the command line: a budget, `lethe extend`, `lethe stop`, early stopping.
In the order it lives. Its trials are made up."""

import json
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from tests.support.processes.launch import MADE_UP, lethe, lethe_here
from tests.support.sweeps.small_sweeps import (
    SWEEP,
    assert_none_repeated,
    child_runs,
    driver,
    ended_trials,
    finished_trials,
    front_of,
    load_study,
    wait_for,
    write_sweep,
)

SPREAD = [
    {"forget.method": method, "beliefs": "none", "optimizer.learning_rate": rate}
    for method, rates in (
        ("npo", (1.0e-4, 1.0e-2, 3.0e-3, 2.0e-4, 1.0e-3)),
        ("graddiff", (5.0e-4, 1.5e-4, 3.0e-4, 8.0e-3)),
    )
    for rate in rates
]
"""Trials of which the last ones rank low: see `tests.chaos.cheap_runner.COSTLY`."""
TRIALS = len(SPREAD) + 1


def spending(folder, **changes):
    trial = {**SWEEP["trial"], "steps": 6, "rungs": 3}
    search = {"trials": len(SPREAD), "sampler": "random", "enqueue": SPREAD}
    stopping = {"reduction": 2.0, "shield_frac": 1.0}
    return write_sweep(
        folder, **{"name": "spent", "trial": trial, "search": search, "early_stopping": stopping, **changes}
    )


@pytest.fixture(scope="module")
def place(finished, head, tmp_path_factory):
    """Storage with models prepared by another sweep, a folder for files, and the head that all starts
    join."""
    return SimpleNamespace(
        storage=finished[1], folder=tmp_path_factory.mktemp("spending"), joined=head.joined
    )


def test_budget_ends_a_sweep_within_one_trial(place):
    file = spending(place.folder, budget={"worker_hours": 1.0e-6})
    done = lethe("run", str(file), storage=place.storage, module=MADE_UP, **place.joined)
    assert "budget.worker_hours = 1e-06 is used up" in done.stdout
    assert len(load_study(place.storage, "spent").get_trials()) == 1


def test_limits_can_only_be_raised(place):
    refused = lethe_here("extend", "spent", "--trials", "2", storage=place.storage, check=False)
    assert refused.returncode == 2
    assert "can only be raised" in refused.stderr


def test_extended_sweep_that_is_asked_to_stop_ends_at_the_next_rung(place):
    output = place.folder / "extended.txt"
    arguments = ("extend", "spent", "--worker-hours", "5", "--trials", "+1")
    with driver(*arguments, storage=place.storage, output=output, module=MADE_UP, **place.joined) as process:
        wait_for(lambda: finished_trials(place.storage, "spent") >= 2 or process.poll() is not None, 300)
        lethe("stop", "spent", storage=place.storage)
        assert process.wait(120) == 0
    assert "asked to stop by `lethe stop`" in output.read_text()
    assert 2 <= finished_trials(place.storage, "spent") < TRIALS
    refused = lethe_here("stop", "spent", storage=place.storage, check=False)
    assert refused.returncode == 2
    assert "no driver is running" in refused.stderr


def test_run_again_goes_on_to_the_extended_end_and_repeats_no_trial(place):
    before = ended_trials(place.storage, "spent")
    search = {"trials": TRIALS, "sampler": "random", "enqueue": SPREAD}
    file = spending(place.folder, search=search, budget={"worker_hours": 5.0})
    done = lethe("run", str(file), storage=place.storage, module=MADE_UP, **place.joined)
    assert "Pareto front" in done.stdout
    assert (
        len(ended_trials(place.storage, "spent"))
        == len(load_study(place.storage, "spent").get_trials())
        == TRIALS
    )
    assert_none_repeated(before, place.storage, "spent")


def test_low_ranking_trials_stopped_at_their_rung_and_the_accounts_of_all_starts_agree(place):
    status = json.loads(lethe_here("status", "spent", "--json", storage=place.storage).stdout)
    states = [trial.state for trial in load_study(place.storage, "spent").get_trials()]
    assert states.count(TrialState.PRUNED) == status["stopped"] >= 1
    assert states.count(TrialState.COMPLETE) == status["finished"] >= 1
    stopped = {
        record["trial_id"]: record["reason"] for record in status["records"] if record["status"] == "stopped"
    }
    ranked_low = [reason for reason in stopped.values() if reason.startswith("rank ") and "at rung" in reason]
    ended = [
        reason for reason in stopped.values() if reason.startswith(("budget.worker_hours", "asked to stop"))
    ]
    assert ranked_low and len(ended) <= 2
    assert len(ranked_low) + len(ended) == len(stopped)
    children = child_runs(place.storage, "spent")
    tracked = sum(run.data.metrics["worker_seconds"] for run in children)
    assert status["worker_seconds"] == pytest.approx(tracked, rel=0.01)
    assert {run.info.run_name for run in children if run.data.tags["status"] == "stopped"} == stopped.keys()
    for member in front_of(place.storage, "spent")["front"]:
        assert (
            place.storage / "spent" / "trials" / member["trial_id"] / "weights" / f"rung{member['rung']}"
        ).is_dir()
