"""Runs one job without Ray, and prints its events and its result as one JSON object per line.

torchrun --nproc-per-node 2 -m trainables.run_job trial.json
"""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist

from trainables.engine.deepspeed_setup import start_deepspeed
from trainables.events import Stopped
from trainables.jobs import JOB, TrialJob
from trainables.worker.job_runner import JobRunner


def main() -> None:
    """Run the job of the JSON file named on the command line. Ranks: all; rank 0 prints."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: torchrun --nproc-per-node N -m trainables.run_job JOB.json")
    job = JOB.validate_json(Path(sys.argv[1]).read_text())
    start_deepspeed()
    outcome = JobRunner().run(job, lambda event: _print(asdict(event)))
    if dist.get_rank() == 0:
        # The items of an evaluation would fill pages, and its output file holds them.
        result = {key: value for key, value in outcome.result.items() if key != "items"}
        reason = outcome.reason if isinstance(outcome, Stopped) else None
        _print({"event": "result", "status": outcome.status, "reason": reason} | result)
        if isinstance(job, TrialJob) and job.checkpoint is not None:
            # In a sweep the driver removes the checkpoints when it has the outcome.
            shutil.rmtree(job.checkpoint, ignore_errors=True)
    leave()


def leave() -> NoReturn:
    """End this process without Python's teardown, as soon as all ranks get here. Ranks: all.

    On a CPU the teardown sometimes aborts ("terminate called without an active exception") after all work is
    done, which would look like a failure of the job.
    """
    # A rank that ended early could take the store with it that the other ranks still use.
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)


def _print(line: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
