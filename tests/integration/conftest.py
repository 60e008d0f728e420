"""What the integration tests stand on, made once: warm ranks, small models, a Ray head, and two finished
sweeps.

With `-n 2 --dist each` one process has the tests on ranks and the other those on sweeps, so that each is made
once (`tests/support/processes/shares.py`).
"""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest

from tests.support.processes.launch import lethe, lethe_environment
from tests.support.processes.mlflow_server import mlflow_server
from tests.support.processes.ray_head import SECRETS, TOKEN, Head, ray_head
from tests.support.sweeps.small_models import DATA, MODEL
from tests.support.sweeps.small_sweeps import (
    SWEEP,
    driver,
    ended_trials,
    finished_trials,
    load_study,
    wait_for,
    write_sweep,
)

Steps = list[dict[str, Any]]


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int, Steps], Steps]]:
    """Runs steps of rank_script.py on one or two ranks that stay warm from test to test."""
    # Imported here, because the process that runs sweeps needs no torch.
    from tests.support.processes.rank_group import RankGroup

    folder = tmp_path_factory.mktemp("ranks")
    groups = {workers: RankGroup(workers, folder / str(workers)) for workers in (1, 2)}
    yield lambda workers, steps: groups[workers].run(steps)
    for group in groups.values():
        group.end()


@pytest.fixture(scope="session")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, ranks: Callable[[int, Steps], Steps]
) -> SimpleNamespace:
    """A target model that knows a tiny closed world, and its measurement, made by the product's own jobs on
    two ranks."""
    folder = tmp_path_factory.mktemp("prepared")
    common = {"model": MODEL, "data": DATA}
    prepare = {
        "kind": "prepare",
        "name": "target",
        "text": "target",
        "initial": str(folder / "initial"),
        "output": str(folder / "target"),
        **common,
    }
    measure = {
        "kind": "evaluate",
        "reference_logp": True,
        "name": "original",
        "folder": str(folder / "target"),
        "output": str(folder / "original.json"),
        **common,
    }
    results = ranks(2, [{"do": "job", "job": prepare}, {"do": "job", "job": measure}])
    return SimpleNamespace(
        folder=folder,
        target=folder / "target",
        original=folder / "original.json",
        common=common,
        prepare=results[0],
        measure=results[1],
    )


@pytest.fixture(scope="session")
def trial_job(prepared: SimpleNamespace):
    """Builds the JSON of a trial job on the prepared model."""

    def build(**trial: Any) -> dict[str, Any]:
        defaults: dict[str, Any] = {
            "steps": 4,
            "rungs": 2,
            "optimizer": {"learning_rate": 1e-3, "global_batch": 4, "micro_batch": 4, "warmup_epochs": 0},
            "sequence_belief": {
                "num_samples": 2,
                "max_new_tokens": 8,
                "refresh_epochs": 1,
                "temperature": 1.3,
            },
            "token_belief": {"weight": 0.3, "top_k": 8, "temperature": 1.5},
        }
        for key, value in trial.items():
            defaults[key] = (
                {**defaults[key], **value}
                if isinstance(value, dict) and isinstance(defaults.get(key), dict)
                else value
            )
        return {
            "kind": "trial",
            "folder": str(prepared.target),
            "original": str(prepared.original),
            "trial": defaults,
            **prepared.common,
        }

    return build


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, subprocess.CompletedProcess[str]]:
    """One small sweep, run to its end: its file, the storage (whose prepared models serve others), and what
    it printed.

    It starts its own Ray, as on a laptop; the other sweeps join `head`, as on a cluster.
    """
    folder = tmp_path_factory.mktemp("sweep")
    file = write_sweep(folder)
    storage = folder / "storage"
    return file, storage, lethe("run", str(file), storage=storage)


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A Ray head of two CPUs; its jobs keep their sweeps in a storage of their own."""
    environment = lethe_environment(
        tmp_path_factory.mktemp("jobs") / "storage", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN
    )
    with ray_head(environment | {"COLUMNS": "250"} | SECRETS) as running:
        yield running


@pytest.fixture(scope="session")
def viewed(
    finished: tuple[Path, Path, subprocess.CompletedProcess[str]],
    head: Head,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[SimpleNamespace]:
    """The finished sweep once more: on two lanes, into a real MLflow server, with workers that measure
    themselves, and with a driver that is killed in the middle."""
    _, storage, _ = finished
    folder = tmp_path_factory.mktemp("viewed")
    with mlflow_server(folder) as uri:
        file = write_sweep(
            folder,
            name="viewed",
            resources={**SWEEP["resources"], "cpus_per_worker": 0.5, "max_lanes": 2},
            tracking={"system_metrics_s": 0.2},
        )
        arguments = ("run", str(file), "--tracking-uri", uri)
        output = folder / "killed.txt"
        with driver(*arguments, storage=storage, output=output, **head.joined):
            wait_for(lambda: "starting Ray" in output.read_text(), 100)
            second = lethe(*arguments, storage=storage, check=False)
            wait_for(lambda: finished_trials(storage, "viewed") >= 1, 300)
        before, begun = ended_trials(storage, "viewed"), len(load_study(storage, "viewed").get_trials())
        done = lethe(*arguments, storage=storage, **head.joined)
        client = mlflow.MlflowClient(uri)
        yield SimpleNamespace(
            uri=uri,
            storage=storage,
            arguments=arguments,
            second=second,
            before=before,
            begun=begun,
            done=done,
            client=client,
        )
