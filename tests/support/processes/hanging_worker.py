"""A lane whose second worker stands still at the first start of a job, as one does whose GPU is gone."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist

from trainables.events import Finished
from trainables.worker.lane_worker import lane_loop


class HangsOnce:
    """Runs a job that does nothing but wait for all ranks."""

    def run(self, job: Any, report: Any, decide: Any) -> Finished:
        mark = Path(job.output)
        if dist.get_rank() == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(60)  # the signal may reach this thread last, which must not get to the barrier before
        dist.barrier()
        return Finished()


def hanging_worker(config: dict[str, Any]) -> None:
    lane_loop(config, HangsOnce)
