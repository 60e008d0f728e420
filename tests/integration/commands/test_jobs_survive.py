"""Ray jobs that are stopped and submitted again, or that lose a node, end with the full front."""

import re
import shlex
from contextlib import ExitStack
from pathlib import Path

import optuna
import pytest

from tests.support.processes.launch import MADE_UP, ROOT, lethe_environment
from tests.support.processes.ray_head import TOKEN, Head, ray_head
from tests.support.processes.ray_nodes import ray_node
from tests.support.sweeps.small_sweeps import (
    SWEEP,
    assert_none_repeated,
    child_runs,
    ended_trials,
    finished_trials,
    front_of,
    load_study,
    wait_for,
    write_sweep,
)

QUICKSTART = "lethe run quickstart.yaml"
JOB_S = 1500.0


def submit(head: Head, folder: Path, entrypoint: str) -> str:
    """Submits a command by `ray job submit`. Returns: the job's id.

    No working directory is uploaded: all nodes of one machine share its copy, and the node that is removed
    would delete it.
    """
    options = ["--address", head.address, "--no-wait"]
    done = head.command("ray", "job", "submit", *options, "--", *shlex.split(entrypoint), cwd=folder)
    found = re.search(r"raysubmit_\w+", done.stdout + done.stderr)
    assert found, done.stdout + done.stderr
    return found[0]


def job(head: Head, command: str, job_id: str) -> str:
    done = head.command("ray", "job", command, job_id, "--address", head.address, cwd=Path("/"))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def wait_until_succeeded(head: Head, job_id: str) -> str:
    """Waits for a job's success. Returns: its output."""
    wait_for(lambda: re.search("SUCCEEDED|FAILED|STOPPED", job(head, "status", job_id).upper()), JOB_S)
    log = job(head, "logs", job_id)
    assert "SUCCEEDED" in job(head, "status", job_id).upper(), log[-3000:]
    return log


def assert_full_front(storage: Path, name: str, trials: int, before: dict) -> None:
    study = load_study(storage, name).get_trials()
    assert [trial.state for trial in study] == [optuna.trial.TrialState.COMPLETE] * trials
    assert_none_repeated(before, storage, name)
    front = front_of(storage, name)
    assert (front["trials"], front["failed"]) == (trials, 0) and front["front"]
    assert sorted(child.info.run_name for child in child_runs(storage, name)) == [
        f"t{number:04d}" for number in range(trials)
    ]


def trials_in_the_middle(storage: Path, name: str) -> int:
    """Returns the number of running trials that have passed their first rung: at most one per lane."""
    running = optuna.trial.TrialState.RUNNING
    trials = [trial for trial in load_study(storage, name).get_trials() if trial.state == running]
    return sum(trial.user_attrs.get("rung:1") is not None for trial in trials)


def check_sweep_that_loses_a_node(
    storage: Path, folder: Path, entrypoint: str, name: str, trials: int
) -> None:
    """Runs a job on a head without CPUs and two nodes, and removes one while both are in a trial."""
    environment = lethe_environment(storage, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN, COLUMNS="250")
    with ray_head(environment, cpus=0) as head, ExitStack() as nodes:
        first, _ = (nodes.enter_context(ray_node(head, cpus=2)) for _ in range(2))
        job_id = submit(head, folder, entrypoint)

        def both_nodes_are_busy() -> bool:
            return finished_trials(storage, name) >= 2 and trials_in_the_middle(storage, name) == 2

        wait_for(both_nodes_are_busy, JOB_S)
        before = ended_trials(storage, name)
        first.vanish()
        log = wait_until_succeeded(head, job_id)
    assert "a node of its workers went away; it starts again (start 2)" in log
    return before


def test_job_on_three_nodes_of_which_one_is_removed_ends_with_the_full_front(finished, tmp_path):
    """The command is that of the shipped RayJob for Kubernetes, with a small sweep of made-up trials."""
    _, storage, _ = finished
    (entrypoint,) = re.findall("entrypoint: (.*)", (ROOT / "cluster" / "rayjob.yaml").read_text())
    # Enough trials, and long enough ones, that both nodes are found in a trial on a fast machine too.
    search, trial = {**SWEEP["search"], "trials": 16}, {**SWEEP["trial"], "steps": 30, "rungs": 10}
    file = write_sweep(tmp_path, name="nodes", search=search, trial=trial)
    command, _, _ = entrypoint.rpartition(" ")
    assert command == "lethe run"
    check_sweep_that_loses_a_node(storage, tmp_path, f"python -m {MADE_UP} run {file}", "nodes", 16)


@pytest.mark.soak
@pytest.mark.timeout(2 * JOB_S)
def test_quickstart_on_three_nodes_of_which_one_is_removed_ends_with_the_full_front(tmp_path):
    check_sweep_that_loses_a_node(tmp_path / "storage", tmp_path, QUICKSTART, "quickstart", 32)


@pytest.mark.soak
@pytest.mark.timeout(2 * JOB_S)
def test_quickstart_as_a_job_that_is_stopped_in_the_middle_and_submitted_again(tmp_path):
    storage = tmp_path / "storage"
    environment = lethe_environment(storage, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN, COLUMNS="250")
    with ray_head(environment) as head:
        job_id = submit(head, tmp_path, QUICKSTART)
        wait_for(lambda: finished_trials(storage, "quickstart") >= 8, JOB_S)
        job(head, "stop", job_id)
        wait_for(lambda: "STOPPED" in job(head, "status", job_id).upper(), 60)
        before = ended_trials(storage, "quickstart")
        assert 8 <= len(before) < 32
        wait_until_succeeded(head, submit(head, tmp_path, QUICKSTART))
    assert_full_front(storage, "quickstart", 32, before)
