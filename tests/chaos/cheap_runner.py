"""A stand-in for training: real lanes, ranks and collectives around made-up metrics, for many faults."""

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
"""Trials with this learning rate or a larger one fail."""

COSTLY = "graddiff"
"""Forget method whose trials lose more utility than others, so that some trials are dominated."""

STARTS = "starts.txt"
"""File in the sweep's folder with a line per start of a trial: its name and Unix time in seconds."""


class CheapRunner:
    """Runs jobs in fractions of a second, and notes each start of a trial in the file `STARTS`."""

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
                # Each step has a collective, as in training, in which a dead or hung rank blocks the others.
                dist.all_reduce(torch.ones(1))
                done = (rung - 1) * STEPS_PER_RUNG + step + 1
                report(StepDone(done, trial.rungs * STEPS_PER_RUNG, 1.0 / done))
            if trial.optimizer.learning_rate >= DIVERGES_FROM:
                reached = rung * STEPS_PER_RUNG
                raise TrialFailedError(f"loss is nan after step {reached}; lower optimizer.learning_rate")
            last = rung == trial.rungs
            metrics = made_up(trial, rung, "validation") | (made_up(trial, rung, "test") if last else {})
            report(RungReached(rung, trial.rungs, metrics))
            decision = decide(rung, trial.rungs)
            if decision.keep:
                if not last:
                    report(RungTested(rung, made_up(trial, rung, "test")))
                if dist.get_rank() == 0:
                    text = f"{job.trial_id} at rung {rung}\n" * 500
                    write_folder(weights / f"rung{rung}", {"model.txt": text})
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
    """Returns the metrics of a trial at a rung, a function of its settings only.

    A larger learning rate forgets more and keeps less utility, so that sweeps have a front.
    """
    settings = f"{trial.model_dump_json()}/{rung}/{part}"
    noise = int.from_bytes(hashlib.sha256(settings.encode()).digest()[:4]) / 2**32
    harshness = (math.log10(trial.optimizer.learning_rate) + 4) / 2 * rung / trial.rungs
    forget, utility = 0.83 * math.exp(-4 * harshness), 0.84 - 0.6 * harshness**2
    if trial.forget.method == COSTLY:
        utility -= 0.2
    return {
        f"{part}/forget_true_mass": forget * (0.98 + 0.04 * noise),
        f"{part}/utility": utility - 0.02 * noise,
    }


def note_start(weights: Path, trial_id: str) -> None:
    """Notes a start of a trial, in one write so that lines of two lanes do not mix."""
    file = os.open(weights.parents[2] / STARTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, f"{trial_id} {time.time():.3f}\n".encode())
    finally:
        os.close(file)


def write_folder(folder: Path, files: dict[str, str]) -> None:
    """Writes a folder atomically: it is complete, or does not exist."""
    if folder.is_dir():
        return
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    for name, text in files.items():
        (partial / name).write_text(text)
    partial.rename(folder)


def cheap_worker(config: dict[str, Any]) -> None:
    """Runs jobs in one worker of a lane."""
    lane_loop(config, CheapRunner)
