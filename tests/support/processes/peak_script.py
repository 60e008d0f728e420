"""Measures the memory in bytes that one trial adds to each rank. Runs under torchrun.

The base is a process that has imported everything and joined its group.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from trainables.engine.deepspeed_setup import start_deepspeed
from trainables.events import Event
from trainables.jobs import JOB
from trainables.run_job import leave
from trainables.worker.job_runner import JobRunner


def status_bytes(name: str) -> int:
    """Return `VmRSS`, or its peak `VmHWM`, of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    torch.set_num_threads(1)
    job, output = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    start_deepspeed()
    # The first collective allocates buffers of Gloo, which are no part of the trial.
    dist.all_reduce(torch.zeros(1))
    base = status_bytes("VmRSS")
    forget_peak()
    phases: dict[str, int] = {}

    def note(event: Event) -> None:
        if os.environ.get("PEAK_BY_EVENT"):
            number = getattr(event, "rung", getattr(event, "step", ""))
            name = f"{len(phases)}:{event.event}:{number}"
            phases[name] = status_bytes("VmHWM") - base
            forget_peak()

    runner = JobRunner()
    runner.run(JOB.validate_python(job), note)
    peak = max([status_bytes("VmHWM") - base, *phases.values()])
    everyone: list = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, {"base": base, "peak": peak, "phases": phases})
    if dist.get_rank() == 0:
        model = runner._engine.hf_config
        output.write_text(json.dumps({"ranks": everyone, "vocabulary": model.vocab_size}))
    leave()


main()
