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

from trainables.events import RungDecision, TrialFailedError
from trainables.jobs import JOB
from trainables.worker.failures import describe_failure, outcome_of
from trainables.worker.system_metrics_sampler import sample_system_metrics

PROGRESS_EVERY_S = 0.25
"""Least time between two progress events of one job: the mailbox serves every lane."""


class Runner(Protocol):
    """Runs jobs: `trainables.worker.job_runner.JobRunner`, or what a test of the sweep around it puts in its
    place."""

    def run(self, job: Any, report: Any, decide: Any) -> dict[str, Any]:
        """Run one job to its end. Ranks: all."""


def start_job_runner() -> Runner:
    """The runner that trains. Ranks: all."""
    # Imported here: transformers and DeepSpeed take seconds, and the process group needs neither.
    from trainables.engine.deepspeed_setup import start_deepspeed
    from trainables.worker.job_runner import JobRunner

    logging.getLogger("transformers").setLevel(logging.ERROR)
    start_deepspeed()
    return JobRunner()


def lane_loop(config: dict[str, Any], start_runner: Callable[[], Runner] = start_job_runner) -> None:
    """Serve the mailbox until it closes.

    A trial that fails by its own settings leaves the lane warm. Any other exception may have struck one rank
    in the middle of a collective, so it ends the worker group, and Ray Train starts that afresh; the job has
    failed where the exception was its own.

    Args:
        config: `job_queue` (actor handle), `lane` (its name), `threads` per worker, and `system_metrics_s`
            where workers are measured.
        start_runner: Makes what runs the jobs.

    Ranks: all.
    """
    job_queue, lane = config["job_queue"], config["lane"]
    torch.set_num_threads(config["threads"])
    runner = start_runner()
    generation = [uuid.uuid4().hex]  # a restarted group must not be taken for the one that died
    rank = dist.get_rank()
    here = ray.get_runtime_context()
    workers: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(workers, (here.get_node_id(), here.current_actor))
    if rank == 0:
        # Before the others learn the name: a rank that asked for work under a name still unknown would be
        # sent home.
        ray.get(job_queue.lane_ready.remote(lane, generation[0], workers))
    dist.broadcast_object_list(generation)
    prefix = f"rank_{rank}/" if len(workers) > 1 else ""
    sequence = 0
    while (task := ray.get(job_queue.next_job.remote(lane, generation[0], sequence))) is not None:
        job_name, job_json = task
        sequence += 1
        reporter = Reporter(job_queue, job_name)
        try:
            with sample_system_metrics(
                config.get("system_metrics_s", 0), prefix, partial(send_system_metrics, job_queue, job_name)
            ):
                result = runner.run(
                    JOB.validate_python(job_json), reporter, partial(wait_for_decision, job_queue, job_name)
                )
            outcome = {"status": "finished"} | result
        except TrialFailedError as error:
            outcome = {"status": "failed", "reason": str(error)}
        except Exception as error:
            if (told := outcome_of(error)) is not None:
                ray.get(job_queue.finish.remote(job_name, told))
            else:
                reporter({"event": "log", "line": f"rank {rank}: {describe_failure(error)}"})
            raise
        if rank == 0:
            ray.get(job_queue.finish.remote(job_name, outcome))


def wait_for_decision(job_queue: Any, job_name: str, rung: int, rungs: int) -> RungDecision:
    """The driver's verdict on a rung, the same on every rank. Ranks: all."""
    decision: list[Any] = [
        ray.get(job_queue.decision.remote(job_name, rung)) if dist.get_rank() == 0 else None
    ]
    dist.broadcast_object_list(
        decision
    )  # all ranks must reach this: one that went on alone would wait in the next step for ever
    return decision[0]


def send_system_metrics(job_queue: Any, job_name: str, samples: list[dict[str, Any]]) -> None:
    """Send what a worker measured of itself during a job, without waiting."""
    job_queue.add_system_metrics.remote(job_name, samples)


class Reporter:
    """Sends a job's events to the mailbox, progress not more often than people can read."""

    def __init__(self, job_queue: Any, job_name: str) -> None:
        self._job_queue, self._job_name = job_queue, job_name
        self._last = 0.0

    def __call__(self, event: dict[str, Any]) -> None:
        """Send one event without waiting for it."""
        if event["event"] == "progress":
            now = time.monotonic()
            if event["step"] < event["steps"] and now - self._last < PROGRESS_EVERY_S:
                return
            self._last = now
        self._job_queue.report.remote(self._job_name, event)
