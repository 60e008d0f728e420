"""Names that are hashed from settings, as commit 1805e04 gave them: whoever changes one makes every sweep on
disk prepare, measure, train or audit again. Raise a version on purpose, or keep the name."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from orchestrator.followups.audits import plan_audits
from orchestrator.storage.baselines import trial_job
from orchestrator.storage.followup_records import Subject
from orchestrator.storage.sweep_folder import SweepFolder
from search_spaces.settings.evaluation_settings import EvaluationSettings
from search_spaces.settings.sweep_settings import SweepSettings
from tests.support.local_lanes import plan_of
from tests.support.sweeps.earlier.make_earlier_sweep import SWEEP
from trainables.training.checkpoints import checkpoint_key

PROBES = ("leak", "paraphrase", "prefix", "relearn", "quantise")
"""Probes of an audit by default, when these names were made."""

ROOT = Path("/tmp/fixture/storage")
"""Where the old code had the sweep: measurements, audits and checkpoints are named by absolute paths too."""
WGA = {
    "beliefs": "token",
    "forget.method": "wga",
    "optimizer.learning_rate": 0.003094603337135923,
    "token_belief.top_k": 18,
}


@pytest.fixture
def sweep():
    return SweepSettings.model_validate(SWEEP)


@pytest.fixture
def plan(sweep):
    return plan_of(sweep, ROOT / "models")


def test_models_keep_their_names(sweep, tmp_path):
    retrained, target = plan_of(sweep, tmp_path).prepare
    assert Path(target.output).name == "target-ed958af17732486b"
    assert Path(retrained.output).name == "retrained-5552b55214bcc690"
    assert {Path(job.initial).name for job in (retrained, target)} == {"initial-65455f00d8ab8de1"}


def test_measurements_keep_their_names(plan):
    assert [one.measurement.name for one in (plan.original, plan.retrained, plan.prompted)] == [
        "measured-original-dd399c4fde30cb72.json",
        "measured-retrained-52e9ad2cbd186017.json",
        "measured-prompted-7ce30eb2e87a06ce.json",
    ]


def test_audits_keep_their_names(sweep, plan):
    folder = SweepFolder(ROOT, "earlier")
    subjects = [
        Subject("original", plan.original.folder),
        Subject("retrained", plan.retrained.folder),
        Subject("t0001", str(folder.weights("t0001") / "rung2"), 2),
    ]
    every = EvaluationSettings(probes=PROBES, probe=sweep.evaluation.probe)
    tasks = plan_audits(subjects, sweep, every, plan.retrained.measurement, folder)
    assert [Path(task.audit_job.output).name for task in tasks] == [
        "original-ab4a7970-dd8c78781166.json",
        "retrained-d815a391-dd8c78781166.json",
        "t0001-68ac7098-dd8c78781166.json",
    ]


def test_checkpoints_keep_their_key(sweep, plan):
    engine = SimpleNamespace(world_size=2, shard_sizes=lambda: [1, 1], device=torch.device("cpu"))
    job = trial_job(sweep, plan, "t0003", WGA, checkpoint="/anywhere", checkpoint_steps=1)
    key = checkpoint_key(engine, job)
    assert key["settings"] == "35452b84db72f50124ade1cb277a4bbb94a6485828bef621ecb7834a13bef44a"
    names = {"format", "settings", "workers", "shards", "device", "threads"}
    assert key.keys() == names | {"torch", "deepspeed", "transformers"}
    assert key["format"] == 1
