"""Sweeps as Ray jobs, on a real head with its dashboard and token authentication; one head for all, tests in the order they stand in."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest

from tests.integration.launch import lethe_environment
from tests.integration.ray_head import SCRIPTS, ray_head
from tests.integration.small_sweeps import SWEEP, child_runs, finished_trials, front_of, load_study, wait_for, write_sweep

TOKEN = "planted-token-0f3c9b7d5e1a"
PASSWORD = "planted-secret-123"
SECRETS = {"MLFLOW_TRACKING_USERNAME": "planted-user-456", "MLFLOW_TRACKING_PASSWORD": PASSWORD}
TRIALS = 25  # so many that a job can be stopped in the middle on a fast machine too


@pytest.fixture(scope="module")
def place(tmp_path_factory, finished):
    """A head, the storage that its environment names (with models prepared by another sweep), and a project folder to submit from."""
    folder = tmp_path_factory.mktemp("submitted")
    storage, project = folder / "storage", folder / "project"
    project.mkdir()
    shutil.copytree(finished[1] / "models", storage / "models")
    write_sweep(project, name="jobs", search={**SWEEP["search"], "trials": TRIALS})
    environment = lethe_environment(storage, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN, COLUMNS="250", **SECRETS)
    with ray_head(environment) as head:
        outputs: list[str] = []
        yield SimpleNamespace(head=head, storage=storage, project=project, outputs=outputs, values={})


def run(place, *arguments, expected=0, **environment):
    """A command that ends as expected. Returns: all it printed."""
    done = place.head.command(*arguments, cwd=place.project, **environment)
    place.outputs.append(done.stdout + done.stderr)
    assert done.returncode == expected, place.outputs[-1][-3000:]
    return place.outputs[-1]


def at(place):
    return ("--address", place.head.address)


def job_of(text):
    return re.search(r"(raysubmit_\w+|lethe-jobs-\d+)", text)[1]


def status_of(place, job_id):
    return run(place, "ray", "job", "status", job_id, *at(place))


def test_job_submitted_by_ray_itself_runs_the_sweep_and_can_be_stopped_in_the_middle(place):
    job_id = job_of(run(place, "ray", "job", "submit", *at(place), "--no-wait", "--working-dir", ".", "--", "lethe", "run", "sweep.yaml"))
    wait_for(lambda: finished_trials(place.storage, "jobs") >= 2, 150)
    run(place, "ray", "job", "stop", job_id, *at(place))
    wait_for(lambda: "STOPPED" in status_of(place, job_id).upper(), 30)
    place.values = {trial.number: trial for trial in load_study(place.storage, "jobs").get_trials() if trial.state.is_finished()}
    assert 2 <= len(place.values) < TRIALS
    assert not (place.project / "lethe-runs").exists()


def test_interrupted_submit_leaves_the_job_running_and_says_how_to_attach_and_stop(place):
    command = [str(SCRIPTS / "lethe"), "submit", "sweep.yaml", *at(place)]
    output = place.project.parent / "interrupted.txt"
    with output.open("w") as lines:
        process = subprocess.Popen(
            command, cwd=place.project, env=place.head.environment, stdout=lines, stderr=lines, start_new_session=True
        )
    try:
        wait_for(lambda: "sweep folder:" in output.read_text() or process.poll() is not None, 90)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(30) == 130, output.read_text()
    finally:
        process.kill()
    text = output.read_text()
    place.outputs.append(text)
    assert "submitted lethe-jobs-1: lethe run sweep.yaml --name jobs" in text
    assert "lethe-jobs-1 goes on without you" in text
    assert f"ray job stop lethe-jobs-1 --address {place.head.address}" in text
    assert "RUNNING" in status_of(place, "lethe-jobs-1").upper()


def test_second_submit_attaches_and_ends_with_the_full_front_and_no_trial_repeated(place):
    text = run(place, "lethe", "submit", "sweep.yaml", *at(place))
    assert "job lethe-jobs-1 of this sweep is RUNNING: attaching to it, nothing is submitted" in text
    assert f"report: {place.storage}" in text, "the job's log was not followed to its end"
    after = load_study(place.storage, "jobs").get_trials()
    assert [trial.state for trial in after] == [optuna.trial.TrialState.COMPLETE] * TRIALS
    for number, trial in place.values.items():
        assert after[number].values == trial.values
        assert after[number].user_attrs["end"] == trial.user_attrs["end"], "a finished trial ran twice"
    front = front_of(place.storage, "jobs")
    assert (front["trials"], front["failed"]) == (TRIALS, 0)
    assert front["front"]
    assert sorted(child.info.run_name for child in child_runs(place.storage, "jobs")) == [f"t{number:04d}" for number in range(TRIALS)]


def test_job_that_fails_hands_its_exit_status_on(place):
    write_sweep(place.project, name="jobs", trial={**SWEEP["trial"], "seed": 5}, search={**SWEEP["search"], "trials": TRIALS})
    text = run(place, "lethe", "submit", "sweep.yaml", *at(place), expected=2)
    assert "submitted lethe-jobs-2" in text
    assert "trial.seed: 0 -> 5" in text


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "asks for a token, and none was sent"),
        ({"RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": "", "HOME": "/nonexistent"}, "asks for a token, and none was sent"),
        ({"RAY_AUTH_TOKEN": "wrong"}, "refused the token"),
    ],
    ids=["off", "none", "wrong"],
)
def test_missing_and_wrong_tokens_are_told_apart(place, environment, message):
    text = run(place, "lethe", "submit", "sweep.yaml", *at(place), expected=2, **environment)
    assert f"RAY_AUTH_TOKEN: the cluster {message}" in " ".join(text.split())
    assert "Traceback" not in text


def test_no_secret_is_in_any_log_record_or_file(place):
    records = run(place, "ray", "job", "list", *at(place))
    assert "lethe-jobs-1" in records
    scanned = [path for folder in (place.storage, place.project, place.head.temporary) for path in files(folder)]
    # The search reaches what it must: the jobs' logs, the study, MLflow's store and Ray's own logs.
    names = {path.name for path in scanned}
    assert {"job-driver-lethe-jobs-1.log", "study.journal", "mlflow.db", "gcs_server.out"} <= names
    secrets = [TOKEN, PASSWORD, SECRETS["MLFLOW_TRACKING_USERNAME"]]
    assert [secret for secret in secrets for text in [*place.outputs, records] if secret in text] == []
    assert [(str(path), secret) for path in scanned for secret in secrets if secret.encode() in path.read_bytes()] == []


def files(folder: Path) -> list[Path]:
    """Regular files below a folder: neither sockets nor links."""
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
