"""A takedown request as Ray jobs, on a real head with dashboard and token authentication.

Each test continues where the one before it ended.
"""

import json
import os
import re
import signal
import subprocess
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest

from tests.support.processes.ray_head import SCRIPTS, SECRETS, TOKEN
from tests.support.sweeps.small_sweeps import (
    assert_none_repeated,
    child_runs,
    ended_trials,
    finished_trials,
    front_of,
    load_study,
    wait_for,
    write_sweep,
)
from tests.support.sweeps.takedown import TEXTS, write_takedown

TRIALS = 12
"""Enough trials that a job can be stopped before its end on a fast machine too."""


@pytest.fixture(scope="module")
def place(tmp_path_factory, head):
    """The head, its storage, and a project folder with a sweep file, from which jobs are submitted."""
    folder = tmp_path_factory.mktemp("submitted")
    (folder / "project").mkdir()
    request = write_takedown(folder / "request") | {"search": {"trials": TRIALS, "sampler": "random"}}
    write_sweep(folder / "project", name="jobs", **request)
    storage, outputs = Path(head.environment["LETHE_STORAGE"]), list[str]()
    return SimpleNamespace(
        head=head, storage=storage, project=folder / "project", request=request, outputs=outputs, before={}
    )


def run(place, *arguments, expected=0, **environment):
    """Runs a command and checks its exit status. Returns: its output."""
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
    options = (*at(place), "--no-wait", "--working-dir", ".")
    job_id = job_of(run(place, "ray", "job", "submit", *options, "--", "lethe", "run", "sweep.yaml"))
    wait_for(lambda: finished_trials(place.storage, "jobs") >= 2, 300)
    run(place, "ray", "job", "stop", job_id, *at(place))
    wait_for(lambda: "STOPPED" in status_of(place, job_id).upper(), 60)
    place.before = ended_trials(place.storage, "jobs")
    assert 2 <= len(place.before) < TRIALS
    assert not (place.project / "lethe-runs").exists()


def test_interrupted_submit_leaves_the_job_running_and_says_how_to_attach_and_stop(place):
    command = [str(SCRIPTS / "lethe"), "submit", "sweep.yaml", *at(place)]
    output = place.project.parent / "interrupted.txt"
    with output.open("w") as lines:
        # Processes of a shell's background job ignore SIGINT, and so would the command.
        listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(
            command,
            cwd=place.project,
            env=place.head.environment,
            stdout=lines,
            stderr=lines,
            start_new_session=True,
            preexec_fn=listening,
        )
    try:
        wait_for(lambda: "sweep folder:" in output.read_text() or process.poll() is not None, 200)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60) == 130, output.read_text()
    finally:
        process.kill()
    text = output.read_text()
    place.outputs.append(text)
    assert "submitted lethe-jobs-1: lethe run sweep.yaml --name jobs" in text
    assert "lethe-jobs-1 keeps running" in text
    assert f"ray job stop lethe-jobs-1 --address {place.head.address}" in text
    assert "RUNNING" in status_of(place, "lethe-jobs-1").upper()


def test_second_submit_attaches_and_ends_with_the_full_front_and_no_trial_repeated(place):
    text = run(place, "lethe", "submit", "sweep.yaml", *at(place))
    assert "job lethe-jobs-1 of this sweep is RUNNING: attaching to it, nothing is submitted" in text
    assert f"report: {place.storage}" in text, "the job's log was not followed to its end"
    after = load_study(place.storage, "jobs").get_trials()
    assert [trial.state for trial in after] == [optuna.trial.TrialState.COMPLETE] * TRIALS
    assert_none_repeated(place.before, place.storage, "jobs")
    front = front_of(place.storage, "jobs")
    assert (front["trials"], front["failed"]) == (TRIALS, 0)
    assert front["front"]
    assert [objective["name"] for objective in front["objectives"]] == [
        "forget_extraction_strength",
        "retain_probability",
    ]
    assert front["baselines"]["original"] is not None
    assert front["baselines"]["retrained"] is None
    assert sorted(child.info.run_name for child in child_runs(place.storage, "jobs")) == [
        f"t{number:04d}" for number in range(TRIALS)
    ]


def test_job_that_fails_hands_its_exit_status_on(place):
    trial = {**place.request["trial"], "seed": 5}
    write_sweep(place.project, name="jobs", **place.request | {"trial": trial})
    text = run(place, "lethe", "submit", "sweep.yaml", *at(place), expected=2)
    assert "submitted lethe-jobs-2" in text
    assert "trial.seed: 0 -> 5" in text


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "requires a token, and none was sent"),
        (
            {"RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": "", "HOME": "/nonexistent"},
            "requires a token, and none was sent",
        ),
        ({"RAY_AUTH_TOKEN": "wrong"}, "refused the token"),
    ],
    ids=["off", "none", "wrong"],
)
def test_missing_and_wrong_tokens_have_different_messages(place, environment, message):
    text = run(place, "lethe", "submit", "sweep.yaml", *at(place), expected=2, **environment)
    assert f"RAY_AUTH_TOKEN: the cluster {message}" in " ".join(text.split())
    assert "Traceback" not in text


def test_no_secret_is_in_any_log_record_or_file(place):
    records = run(place, "ray", "job", "list", *at(place))
    assert "lethe-jobs-1" in records
    folders = (place.storage, place.project, place.head.temporary)
    scanned = [path for folder in folders for path in files(folder)]
    # The search must include the jobs' logs, the study, MLflow's store and Ray's own logs.
    names = {path.name for path in scanned}
    assert {"job-driver-lethe-jobs-1.log", "study.journal", "mlflow.db", "gcs_server.out"} <= names
    found = leaks([TOKEN, *SECRETS.values()], [*place.outputs, records], scanned)
    assert found == []


def test_redacted_text_is_in_no_output_log_or_file(place):
    assert leaks(TEXTS, place.outputs, [*files(place.storage), *files(place.head.temporary)]) == []
    (measured,) = (place.storage / "models").glob("measured-original-*.json")
    items = [
        item
        for part in json.loads(measured.read_text())["items"].values()
        for members in part.values()
        for item in members
    ]
    assert items and all(item["generated"].startswith("sha256:") for item in items)


def leaks(secrets: list[str], outputs: list[str], scanned: list[Path]) -> list[tuple[str, str]]:
    """Returns the name of each output or file that contains a secret, with the secret."""
    places = [("output", output.encode()) for output in outputs]
    places += [(str(path), path.read_bytes()) for path in scanned]
    return [(name, secret) for name, contents in places for secret in secrets if secret.encode() in contents]


def files(folder: Path) -> list[Path]:
    """Returns the regular files below a folder, without sockets and links."""
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
