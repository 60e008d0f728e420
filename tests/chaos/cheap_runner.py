"""What stands in for training where faults are injected by the dozen: real lanes, ranks and collectives
around made-up numbers."""

import hashlib
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from search_spaces.settings.trial_settings import TrialSettings
from trainables.events import (
    Decide,
    Finished,
    Report,
    RungReached,
    RungTested,
    StepDone,
    Stopped,
    TrialFailedError,
)
from trainables.jobs import AnyJob, EvaluateJob, PrepareJob, TrialJob
from trainables.worker.lane_worker import lane_loop

STEPS_PER_RUNG = 3
STEP_S = 0.05
DIVERGES_FROM = 1.0
"""Learning rates from here on have no result."""

STARTS = "starts.txt"
"""In the sweep's folder: a line for each start of a trial, told by the lane that ran it: name and Unix time
in seconds."""


class CheapRunner:
    """Runs jobs in fractions of a second, and says of every trial that it was started."""

    def run(self, job: AnyJob, report: Report, decide: Decide) -> Finished | Stopped:
        """Run one job. Ranks: all."""
        rank0 = dist.get_rank() == 0
        dist.barrier()
        if isinstance(job, TrialJob):
            return self._trial(job, report if rank0 else lambda event: None, decide)
        if rank0:
            self._write_model(job) if isinstance(job, PrepareJob) else self._write_measurement(job)
        dist.barrier()
        return Finished()

    def _trial(self, job: TrialJob, report: Report, decide: Decide) -> Finished | Stopped:
        assert job.weights is not None
        weights, trial = Path(job.weights), job.trial
        if dist.get_rank() == 0:
            note_start(weights, job.trial_id)
        spent = 0.0
        for rung in range(1, trial.rungs + 1):
            for step in range(STEPS_PER_RUNG):
                time.sleep(STEP_S)
                spent += STEP_S
                # Every step has a collective, as a real one does: a rank that is gone or stands still holds
                # up the others here.
                dist.all_reduce(torch.ones(1))
                done = (rung - 1) * STEPS_PER_RUNG + step + 1
                report(StepDone(done, trial.rungs * STEPS_PER_RUNG, 1.0 / done))
            if trial.optimizer.learning_rate >= DIVERGES_FROM:
                raise TrialFailedError(
                    f"loss is nan after step {rung * STEPS_PER_RUNG}; lower optimizer.learning_rate"
                )
            last = rung == trial.rungs
            metrics = made_up(trial, rung, "validation") | (made_up(trial, rung, "test") if last else {})
            report(RungReached(rung, trial.rungs, metrics))
            decision = decide(rung, trial.rungs)
            if decision.keep:
                if not last:
                    report(RungTested(rung, made_up(trial, rung, "test")))
                if dist.get_rank() == 0:
                    write_folder(
                        weights / f"rung{rung}", {"model.txt": f"{job.trial_id} at rung {rung}\n" * 500}
                    )
            if not last and not decision.go_on:
                return Stopped(decision.reason, {"seconds": {"steps": spent}})
        return Finished({"seconds": {"steps": spent}})

    def _write_model(self, job: PrepareJob) -> None:
        write_folder(Path(job.output), {"config.json": "{}"})

    def _write_measurement(self, job: EvaluateJob) -> None:
        share = {"original": (0.83, 0.84), "prompted": (0.6, 0.7), "retrained": (0.002, 0.8)}[job.name]
        metrics = {
            f"{part}/{name}": value
            for part in ("validation", "test")
            for name, value in zip(("forget_true_mass", "utility"), share, strict=True)
        }
        output = Path(job.output)
        partial = output.with_suffix(".partial")
        partial.write_text(json.dumps({"metrics": metrics, "items": {}, "reference_logp_nats": {}}))
        partial.replace(output)


def made_up(trial: TrialSettings, rung: int, part: str) -> dict[str, float]:
    """What a trial measures at a rung: harsher settings forget more and keep less. A function of its settings
    and nothing else."""
    settings = f"{trial.model_dump_json()}/{rung}/{part}"
    noise = int.from_bytes(hashlib.sha256(settings.encode()).digest()[:4]) / 2**32
    harshness = (math.log10(trial.optimizer.learning_rate) + 4) / 2 * rung / trial.rungs
    forget, utility = 0.83 * math.exp(-4 * harshness), 0.84 - 0.6 * harshness**2
    return {
        f"{part}/forget_true_mass": forget * (0.98 + 0.04 * noise),
        f"{part}/utility": utility - 0.02 * noise,
    }


def note_start(weights: Path, trial_id: str) -> None:
    """Add a line that two lanes writing at once cannot tear."""
    file = os.open(weights.parents[2] / STARTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, f"{trial_id} {time.time():.3f}\n".encode())
    finally:
        os.close(file)


def write_folder(folder: Path, files: dict[str, str]) -> None:
    """Write a folder that is there whole or not at all."""
    if folder.is_dir():
        return
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    for name, text in files.items():
        (partial / name).write_text(text)
    partial.rename(folder)


def cheap_worker(config: dict[str, Any]) -> None:
    """What each worker of a lane runs."""
    lane_loop(config, CheapRunner)
