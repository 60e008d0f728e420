"""A lane whose second worker hangs at the first start of a job, as a worker without its GPU does."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist

from trainables.events import Finished
from trainables.worker.lane_worker import lane_loop


class HangsOnce:
    """A runner whose jobs only wait for all ranks; the first start of a job hangs on rank 1."""

    def run(self, job: Any, report: Any, decide: Any) -> Finished:
        mark = Path(job.output)
        if dist.get_rank() == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
            # The signal may stop this thread last, which must not reach the barrier before.
            time.sleep(60)
        dist.barrier()
        return Finished()


def hanging_worker(config: dict[str, Any]) -> None:
    lane_loop(config, HangsOnce)
