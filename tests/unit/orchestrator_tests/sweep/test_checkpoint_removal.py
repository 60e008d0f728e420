"""The driver removes checkpoints of trials that have ended, and shows how much space checkpoints need."""

from io import StringIO

import pytest
from rich.console import Console

from cluster.capacity.layouts import Cluster
from cluster.capacity.rank_memory import GIB
from orchestrator.storage.cleaning import clean_storage, drop_unfinished
from orchestrator.storage.sweep_folder import SweepFolder, open_sweep
from orchestrator.storage.trial_records import trial_id
from orchestrator.terminal.cluster_plan_tables import ScaleOptions
from orchestrator.terminal.plan_tables import show_plan
from tests.support.sweeps.sweep_in_progress import start_sweep
from tests.support.sweeps.sweep_on_disk import small_sweep, store
from trainables.benchmarks.registry import load_benchmark
from trainables.durable_files import write_json


@pytest.fixture
def start(tmp_path):
    """Returns a sweep that has started, without trials so far."""
    return start_sweep(tmp_path)


def write_checkpoint(start, number):
    """Writes a checkpoint as a lane does, and returns its folder."""
    folder = start.folder.checkpoint(trial_id(number))
    (folder / "step3").mkdir(parents=True)
    (folder / "step3" / "rank0.pt").write_bytes(b"0")
    return folder


@pytest.mark.parametrize("status", ["finished", "stopped", "failed"])
def test_checkpoint_is_removed_when_its_trial_ends_and_the_front_keeps_its_weights(start, status):
    number, other = start.begin(), start.begin()
    folder, others = write_checkpoint(start, number), write_checkpoint(start, other)
    start.rung(number, 1, 1, (0.5, 0.7))
    assert folder.exists()
    start.end(number, status, None if status == "finished" else "a reason")
    assert not folder.exists() and others.exists()
    assert start.kept() == (set() if status == "failed" else {("t0000", 1)})


def test_checkpoint_of_a_trial_that_lost_its_lanes_stays_for_the_next_start(start):
    folder = write_checkpoint(start, start.begin())
    start.end(0, "lost", "no lane left")
    start_sweep(folder.parents[3]).recorder.tidy()
    assert folder.exists()


def test_checkpoint_that_a_killed_driver_left_is_removed_by_the_next_one(start, tmp_path):
    start.run((0.5, 0.7))
    folder = write_checkpoint(start, 0)
    start_sweep(tmp_path).recorder.tidy()
    assert not folder.exists()


def test_leftovers_of_ended_trials_are_removed_and_those_of_running_ones_stay(tmp_path):
    folder, _, study = store(tmp_path)
    for record in study.records():
        (folder.checkpoint(record.trial_id) / "step3").mkdir(parents=True)
        (folder.weights(record.trial_id) / "rung9.partial").mkdir(parents=True)
    whole = set(folder.path.glob("trials/*/weights/rung1"))
    drop_unfinished(folder, study.records())
    running = [record.trial_id for record in study.records() if not record.ended]
    assert [path.parent.name for path in folder.path.glob("trials/*/checkpoint")] == running == ["t0005"]
    assert [path.parents[1].name for path in folder.path.glob("trials/*/weights/*.partial")] == running
    assert whole and set(folder.path.glob("trials/*/weights/rung1")) == whole
    clean_storage(tmp_path, None, remove=True)
    assert folder.checkpoint("t0005").exists()


def test_checkpoints_may_be_turned_on_for_a_sweep_that_has_begun(tmp_path):
    folder = SweepFolder(tmp_path, "small")
    folder.create(small_sweep(), "small.yaml")
    folder.trial("t0000").mkdir(parents=True)
    assert folder.create(small_sweep(resources={"checkpoint_steps": 50}), "small.yaml") is True
    assert open_sweep(tmp_path, "small")[1].resources.checkpoint_steps == 50


def test_sweep_of_a_version_without_checkpoints_goes_on(tmp_path):
    folder = SweepFolder(tmp_path, "small")
    stored = small_sweep().model_dump(mode="json")
    del stored["resources"]["checkpoint_steps"]
    write_json(folder.settings, stored)
    folder.trial("t0000").mkdir(parents=True)
    assert folder.create(small_sweep(), "small.yaml") is True


@pytest.mark.parametrize(("every", "line"), [(0, None), (50, "checkpoints: 13.8 GiB per lane")])
def test_plan_on_described_gpus_shows_what_checkpoints_add(tmp_path, every, line):
    resources = {"workers_per_trial": 2, "gpus_per_worker": 1, "checkpoint_steps": every}
    sweep = small_sweep(resources=resources)
    console = Console(file=StringIO(), width=200)
    gpus = ScaleOptions(Cluster(8, 80 * GIB, 4), shape="1b")
    show_plan(sweep, "small.yaml", load_benchmark(sweep.data), tmp_path, console, gpus)
    shown = [text for text in console.file.getvalue().splitlines() if text.startswith("checkpoints")]
    # 1,235,814,400 parameters of 12 bytes on each of four lanes.
    more = ", and twice that while the next one is written: up to 110.5 GiB more"
    assert shown == ([] if line is None else [line + more])
