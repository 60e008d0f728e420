"""What each Ray Train worker of a lane runs: pull a job, run it, report, until the pool closes."""

import logging
import time
import uuid
from functools import partial
from typing import Any

import ray
import torch
import torch.distributed as dist

from search_spaces.user_errors import UserError
from trainables.engine import start_deepspeed
from trainables.job_runner import JobRunner
from trainables.jobs import JOB, Verdict
from trainables.trial import TrialFailedError

PROGRESS_EVERY_S = 0.25
"""Least time between two progress events of one job: the mailbox serves every lane."""

OUT_OF_MEMORY_REMEDY = (
    "lower trial.optimizer.micro_batch, turn trial.engine.activation_checkpointing on, or raise resources.workers_per_trial"
)


def lane_loop(config: dict[str, Any]) -> None:
    """Serve the mailbox until it closes.

    A trial that fails by its own settings leaves the lane warm. Any other exception may have struck one rank in the middle of a
    collective, so the job is marked failed and the exception ends the worker group: Ray Train starts it afresh.

    Args:
        config: `mailbox` (actor handle), `lane` (its name) and `threads` per worker.

    Ranks: all.
    """
    mailbox, lane = config["mailbox"], config["lane"]
    torch.set_num_threads(config["threads"])
    logging.getLogger("transformers").setLevel(logging.ERROR)
    start_deepspeed()
    generation = [uuid.uuid4().hex]  # a restarted group must not be taken for the one that died
    rank = dist.get_rank()
    if rank == 0:
        # Before the others learn the name: a rank that asked for work under a name still unknown would be sent home.
        ray.get(mailbox.lane_ready.remote(lane, generation[0]))
    dist.broadcast_object_list(generation)
    runner = JobRunner()
    sequence = 0
    while (task := ray.get(mailbox.next_job.remote(lane, generation[0], sequence))) is not None:
        ticket, job_json = task
        sequence += 1
        reporter = Reporter(mailbox, ticket)
        try:
            outcome = {"status": "finished"} | runner.run(JOB.validate_python(job_json), reporter, partial(ask_verdict, mailbox, ticket))
        except TrialFailedError as error:
            outcome = {"status": "failed", "reason": str(error)}
        except Exception as error:
            ray.get(mailbox.finish.remote(ticket, {"status": "failed", "reason": describe_failure(error)}))
            raise
        if rank == 0:
            ray.get(mailbox.finish.remote(ticket, outcome))


def ask_verdict(mailbox: Any, ticket: str, rung: int, rungs: int) -> Verdict:
    """The driver's verdict on a rung, the same on every rank. Ranks: all."""
    verdict: list[Any] = [ray.get(mailbox.verdict.remote(ticket, rung)) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(verdict)  # all ranks must reach this: one that went on alone would wait in the next step for ever
    return verdict[0]


class Reporter:
    """Sends a job's events to the mailbox, progress not more often than people can read."""

    def __init__(self, mailbox: Any, ticket: str) -> None:
        self._mailbox, self._ticket = mailbox, ticket
        self._last = 0.0

    def __call__(self, event: dict[str, Any]) -> None:
        """Send one event without waiting for it."""
        if event["event"] == "progress":
            now = time.monotonic()
            if event["step"] < event["steps"] and now - self._last < PROGRESS_EVERY_S:
                return
            self._last = now
        self._mailbox.report.remote(self._ticket, event)


def describe_failure(error: Exception) -> str:
    """One line that says what happened and what to do."""
    text = str(error).strip()
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text or "out of memory" in text.lower():
        return f"out of memory: {OUT_OF_MEMORY_REMEDY}"
    if isinstance(error, UserError):
        return text
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"
