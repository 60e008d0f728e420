"""One rank of a lane whose jobs may be interrupted on all ranks before a step, or by the death of one rank.

Its steps are a list of `{"job": ..., "ends": null | {"step": ..., "kills": null | rank}}`; it writes the
results as `results.json`.
"""

import json
import os
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trainables.engine.deepspeed_setup import start_deepspeed
from trainables.events import Event
from trainables.jobs import JOB
from trainables.run_job import leave
from trainables.training import trial
from trainables.worker.job_runner import JobRunner

train_step = trial.train_step


class InterruptedTrial(Exception):
    """Stands in for a death, in a process that can run the next job."""


def interrupted_step(ends: dict[str, Any] | None) -> Any:
    """Return a `train_step` that raises on all ranks, or kills one of them, before the step in `ends`."""

    def step(engine, packed_batches, number, rate):
        if ends is not None and number == ends["step"]:
            if ends["kills"] is None:
                raise InterruptedTrial
            if engine.rank == ends["kills"]:
                os.kill(os.getpid(), signal.SIGKILL)
        return train_step(engine, packed_batches, number, rate)

    return step


def run_steps(folder: Path, steps: list[dict[str, Any]]) -> None:
    """Run the steps, and write the results of those that came to an end. Ranks: all."""
    torch.set_num_threads(1)
    start_deepspeed()
    runner, results = JobRunner(), []
    for step in steps:
        events: list[Event] = []
        trial.train_step = interrupted_step(step["ends"])
        try:
            job = JOB.validate_python(step["job"])
            outcome = runner.run(job, events.append)
        except InterruptedTrial:
            continue
        result = {"status": outcome.status, **outcome.result}
        reported = [asdict(event) for event in events]
        results.append({"result": result, "events": reported, "digest": runner._engine.digest()})
    if dist.get_rank() == 0:
        (folder / "results.json").write_text(json.dumps(results))
    leave()
