"""What each Ray Train worker of a lane runs: pull a job, run it, report, until the pool closes."""

import logging
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import ray
import torch
import torch.distributed as dist

from search_spaces.user_errors import UserError
from trainables.jobs import JOB, TrialFailedError, Verdict

PROGRESS_EVERY_S = 0.25
"""Least time between two progress events of one job: the mailbox serves every lane."""

OUT_OF_MEMORY_REMEDY = (
    "lower trial.optimizer.micro_batch, turn trial.engine.activation_checkpointing on, or raise resources.workers_per_trial"
)


class Runner(Protocol):
    """Runs jobs: `trainables.job_runner.JobRunner`, or what a test of the sweep around it puts in its place."""

    def run(self, job: Any, report: Any, judge: Any) -> dict[str, Any]:
        """Run one job to its end. Ranks: all."""


def start_job_runner() -> Runner:
    """The runner that trains. Ranks: all."""
    # Imported here: transformers and DeepSpeed take seconds, and the process group needs neither.
    from trainables.engine import start_deepspeed
    from trainables.job_runner import JobRunner

    logging.getLogger("transformers").setLevel(logging.ERROR)
    start_deepspeed()
    return JobRunner()


def lane_loop(config: dict[str, Any], start_runner: Callable[[], Runner] = start_job_runner) -> None:
    """Serve the mailbox until it closes.

    A trial that fails by its own settings leaves the lane warm. Any other exception may have struck one rank in the middle of a
    collective, so the job is marked failed and the exception ends the worker group: Ray Train starts it afresh.

    Args:
        config: `mailbox` (actor handle), `lane` (its name) and `threads` per worker.
        start_runner: Makes what runs the jobs.

    Ranks: all.
    """
    mailbox, lane = config["mailbox"], config["lane"]
    torch.set_num_threads(config["threads"])
    runner = start_runner()
    generation = [uuid.uuid4().hex]  # a restarted group must not be taken for the one that died
    rank = dist.get_rank()
    here = ray.get_runtime_context()
    workers: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(workers, (here.get_node_id(), here.current_actor))
    if rank == 0:
        # Before the others learn the name: a rank that asked for work under a name still unknown would be sent home.
        ray.get(mailbox.lane_ready.remote(lane, generation[0], workers))
    dist.broadcast_object_list(generation)
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
