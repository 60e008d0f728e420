"""A small sweep over the command line, and what its stores say about it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import optuna
import yaml

from tests.support.processes.launch import REAL, ROOT, lethe_environment, lethe_here
from tests.support.sweeps.small_models import DATA, MODEL

SWEEP = {
    "name": "tiny",
    "model": MODEL,
    "data": DATA,
    "trial": {
        "steps": 2,
        "rungs": 2,
        "optimizer": {"global_batch": 4, "micro_batch": 4, "warmup_epochs": 0},
        "sequence_belief": {"num_samples": 2, "max_new_tokens": 8},
    },
    "space": {
        "forget.method": {"choice": ["graddiff", "npo", "wga"]},
        "beliefs": {"choice": ["none", "token", "sequence"]},
        "optimizer.learning_rate": {"log_uniform": [1.0e-4, 1.0e-2]},
        "token_belief.top_k": {"log_int": [2, 32], "when": {"beliefs": "token"}},
    },
    "search": {
        "trials": 5,
        "sampler": "random",
        "enqueue": [{"optimizer.learning_rate": 0.005, "forget.method": "npo", "beliefs": "sequence"}],
    },
    "resources": {"workers_per_trial": 2, "cpus_per_worker": 1},
}


def write_sweep(folder: Path, **changes) -> Path:
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump({**SWEEP, **changes}))
    return file


def load_study(storage: Path, name: str) -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(str(storage / name / "study.journal"))
    return optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(backend))


def child_runs(storage: Path, name: str, uri: str | None = None, kind: str = "trial") -> list:
    """Trials, or runs of another kind: audits of a shared sweep come and go with the tests that make them."""
    client = mlflow.MlflowClient(uri or f"sqlite:///{storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lethe")
    runs = client.search_runs([experiment.experiment_id])
    parent = next(
        run for run in runs if run.info.run_name == name and "mlflow.parentRunId" not in run.data.tags
    )
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    return [run for run in children if run.data.tags.get("lethe.kind") == kind]


def front_of(storage: Path, name: str) -> dict:
    return json.loads(lethe_here("front", name, "--json", storage=storage).stdout)


def ended_trials(storage: Path, name: str) -> dict[int, optuna.trial.FrozenTrial]:
    """What must stay as it is when the sweep goes on, by number."""
    return {
        trial.number: trial for trial in load_study(storage, name).get_trials() if trial.state.is_finished()
    }


def assert_none_repeated(before: dict[int, optuna.trial.FrozenTrial], storage: Path, name: str) -> None:
    after = ended_trials(storage, name)
    for number, trial in before.items():
        assert after[number].values == trial.values
        assert after[number].user_attrs["end"] == trial.user_attrs["end"], "a trial that had ended ran twice"


def finished_trials(storage: Path, name: str) -> int:
    try:
        return len(ended_trials(storage, name))
    except (KeyError, FileNotFoundError, ValueError):
        return 0


def wait_for(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


@contextmanager
def driver(
    *arguments: str, storage: Path, output: Path, module: str = REAL, **environment: str
) -> Iterator[subprocess.Popen]:
    """A `lethe` command in the background; killed at the end of the block if it still runs."""
    with output.open("w") as lines:
        command = [sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(
            command, cwd=ROOT, env=lethe_environment(storage, **environment), stdout=lines, stderr=lines
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
            process.wait()
