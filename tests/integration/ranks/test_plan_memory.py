"""`lethe plan` against reality: predicted and measured peak memory of one real ZeRO-3 trial on two CPU
processes."""

import json
from pathlib import Path

import pytest

from cluster.capacity.model_shapes import shape_of
from cluster.capacity.rank_memory import memory_of_rank
from orchestrator.terminal.cluster_plan_tables import lengths_of
from search_spaces.settings.sweep_settings import SweepSettings
from tests.support.places import SCRIPTS
from tests.support.processes.launch import run_ranks
from tests.support.sweeps.small_models import DATA
from trainables.benchmarks.registry import load_benchmark
from trainables.jobs import PrepareJob
from trainables.training.preparation import write_scratch_model

SCRATCH = {"hidden_size": 768, "intermediate_size": 2048, "layers": 6, "heads": 12}
WORKERS = 2
TRIAL = {
    "steps": 2,
    "optimizer": {"learning_rate": 1e-4, "global_batch": 4, "micro_batch": 4, "warmup_epochs": 0},
    "forget": {"method": "wga"},
    "engine": {"evaluation_batch": 16},
}


def measured_peaks(folder: Path, model: dict) -> list[int]:
    """Bytes that a trial adds to each rank at its peak."""
    job = {"kind": "trial", "folder": str(folder / "initial"), "model": model, "data": DATA, "trial": TRIAL}
    (folder / "job.json").write_text(json.dumps(job))
    run_ranks(WORKERS, SCRIPTS / "peak_script.py", str(folder / "job.json"), str(folder / "out.json"))
    return [rank["peak"] for rank in json.loads((folder / "out.json").read_text())["ranks"]]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")
def test_predicted_memory_is_within_15_percent_of_the_measured_peak_when_parameters_dominate(tmp_path):
    model = {"base": "scratch", "scratch": SCRATCH}
    write_scratch_model(
        PrepareJob(
            name="target",
            model=model,
            data=DATA,
            text="target",
            initial=str(tmp_path / "initial"),
            output="-",
        )
    )
    sweep = SweepSettings(name="peak", model=model, data=DATA, trial=TRIAL)
    lengths = lengths_of(sweep, load_benchmark(sweep.data), None)
    shape = shape_of(sweep.model, str(tmp_path / "initial"))
    predicted = memory_of_rank(shape, sweep.model, sweep.trial, lengths, WORKERS, gpu=False).peak
    for peak in measured_peaks(tmp_path, model):
        assert predicted == pytest.approx(peak, rel=0.15)
