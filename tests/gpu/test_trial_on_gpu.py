"""What only a GPU shows: bfloat16 and NCCL through the same trial core. Run with `pytest tests/gpu` on a
machine that has one."""

import pytest
import torch

from tests.support.processes.launch import torchrun

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

MODEL = {
    "base": "scratch",
    "dtype": "bfloat16",
    "scratch": {"hidden_size": 256, "layers": 4},
    "prepare": {"steps": 100},
}


def test_prepared_and_unlearned_on_every_gpu_the_same_trial_twice(tmp_path):
    common = {"model": MODEL, "data": {"benchmark": "closed_world"}}
    prepare = {
        "kind": "prepare",
        "name": "target",
        "text": "target",
        "initial": str(tmp_path / "initial"),
        "output": str(tmp_path / "target"),
    }
    settings = {
        "steps": 4,
        "beliefs": "token+sequence",
        "sequence_belief": {"max_new_tokens": 12},
        "optimizer": {"learning_rate": 1e-4},
    }
    trial = {"kind": "trial", "folder": str(tmp_path / "target"), "trial": settings}
    steps = [{"do": "job", "job": job | common} for job in (prepare, trial, trial)]
    workers = torch.cuda.device_count()
    _, first, second = torchrun(workers, steps, tmp_path / "run")
    assert first["result"]["metrics"] == pytest.approx(second["result"]["metrics"], rel=1e-2, abs=1e-3)
