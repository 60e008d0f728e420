"""Small models, made once: what the integration tests stand on."""

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.integration.launch import lethe, torchrun
from tests.integration.small_models import DATA, MODEL
from tests.integration.small_sweeps import write_sweep


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A target model that knows a tiny closed world, and its measurement, made by the product's own jobs on two ranks."""
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
    measure = {"kind": "measure", "name": "original", "folder": str(folder / "target"), "output": str(folder / "original.json"), **common}
    results = torchrun(2, [{"do": "job", "job": prepare}, {"do": "job", "job": measure}], folder / "run")
    return SimpleNamespace(
        folder=folder, target=folder / "target", original=folder / "original.json", common=common, prepare=results[0], measure=results[1]
    )


@pytest.fixture(scope="session")
def trial_job(prepared: SimpleNamespace):
    """Builds the JSON of a trial job on the prepared model."""

    def build(**trial: Any) -> dict[str, Any]:
        defaults: dict[str, Any] = {
            "steps": 4,
            "rungs": 2,
            "optimizer": {"learning_rate": 1e-3, "global_batch": 4, "micro_batch": 4, "warmup_epochs": 0},
            "sequence_belief": {"num_samples": 2, "max_new_tokens": 8, "refresh_epochs": 1, "temperature": 1.3},
            "token_belief": {"weight": 0.3, "top_k": 8, "temperature": 1.5},
        }
        for key, value in trial.items():
            defaults[key] = {**defaults[key], **value} if isinstance(value, dict) and isinstance(defaults.get(key), dict) else value
        return {"kind": "trial", "folder": str(prepared.target), "original": str(prepared.original), "trial": defaults, **prepared.common}

    return build


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, subprocess.CompletedProcess[str]]:
    """One small sweep, run to its end: its file, the storage (whose prepared models serve others), and what it printed."""
    folder = tmp_path_factory.mktemp("sweep")
    file = write_sweep(folder)
    storage = folder / "storage"
    return file, storage, lethe("run", str(file), storage=storage)
