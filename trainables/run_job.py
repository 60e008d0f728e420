"""Run one job without Ray: `torchrun --nproc-per-node 2 -m trainables.run_job trial.json` prints its result
as JSON."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist

from trainables.engine.deepspeed_setup import start_deepspeed
from trainables.jobs import JOB, TrialJob
from trainables.worker.job_runner import JobRunner


def main() -> None:
    """Read a job from the file named on the command line, run it on all ranks, print events and the result on
    rank 0."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: torchrun --nproc-per-node N -m trainables.run_job JOB.json")
    job = JOB.validate_json(Path(sys.argv[1]).read_text())
    start_deepspeed()
    result = JobRunner().run(job, _print)
    if dist.get_rank() == 0:
        _print({"event": "result"} | {key: value for key, value in result.items() if key != "items"})
        if isinstance(job, TrialJob) and job.checkpoint is not None:
            shutil.rmtree(
                job.checkpoint, ignore_errors=True
            )  # in a sweep the driver does it, once it has the result
    leave()


def leave() -> NoReturn:
    """End this process when all ranks have come this far.

    On CPU a process now and then aborts in its own teardown ("terminate called without an active exception"),
    after all work is
    done: nothing is left that needs one, so there is none. Ranks: all.
    """
    dist.barrier()  # a rank that leaves early takes the store along that the others still use
    sys.stdout.flush()
    os._exit(0)


def _print(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
