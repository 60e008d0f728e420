"""The loop of each Ray Train worker of a lane: take a job, run it, report, until the pool closes."""

import logging
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import ray
import torch
import torch.distributed as dist

from trainables.events import (
    Decide,
    Event,
    Failed,
    Finished,
    LineLogged,
    Outcome,
    Report,
    RungDecision,
    StepDone,
    Stopped,
    TrialFailedError,
)
from trainables.jobs import JOB, AnyJob
from trainables.worker.failures import describe_failure, outcome_of
from trainables.worker.system_metrics_sampler import sample_system_metrics

PROGRESS_EVERY_S = 0.25
"""Least time between two progress events of one job, since the job queue serves all lanes."""


class Runner(Protocol):
    """Runs jobs: `trainables.worker.job_runner.JobRunner`, or a cheap one in tests of the sweep around it."""

    def run(self, job: AnyJob, report: Report, decide: Decide) -> Finished | Stopped:
        """Run one job to its end. Ranks: all."""


def start_job_runner() -> Runner:
    """Return the runner that trains. Ranks: all."""
    # Imported here, since transformers and DeepSpeed take seconds, and the process group needs neither.
    from trainables.engine.deepspeed_setup import start_deepspeed
    from trainables.worker.job_runner import JobRunner

    logging.getLogger("transformers").setLevel(logging.ERROR)
    start_deepspeed()
    return JobRunner()


def lane_loop(config: dict[str, Any], start_runner: Callable[[], Runner] = start_job_runner) -> None:
    """Run jobs from the queue until the pool closes.

    A trial that fails by its own settings leaves the lane warm. Any other exception may have struck one rank
    in the middle of a collective, so it ends the worker group, and Ray Train starts a new one; the job has
    failed if the exception was its own.

    Args:
        config: `job_queue` (actor handle), `lane` (its name), `threads` per worker, and `system_metrics_s`
            (seconds) if workers are measured.
        start_runner: Makes the runner of the jobs.

    Ranks: all.
    """
    job_queue, lane = config["job_queue"], config["lane"]
    torch.set_num_threads(config["threads"])
    runner = start_runner()
    # A restarted group must not be taken for the one that died.
    generation = [uuid.uuid4().hex]
    rank = dist.get_rank()
    here = ray.get_runtime_context()
    workers: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(workers, (here.get_node_id(), here.current_actor))
    if rank == 0:
        # Before the other ranks know the generation: a rank that asks for a job of an unknown generation
        # gets none, and ends.
        ray.get(job_queue.lane_ready.remote(lane, generation[0], workers))
    dist.broadcast_object_list(generation)
    prefix = f"rank_{rank}/" if len(workers) > 1 else ""
    sequence = 0
    while (task := ray.get(job_queue.next_job.remote(lane, generation[0], sequence))) is not None:
        job_name, job_json = task
        sequence += 1
        outcome: Outcome
        report = Reporter(job_queue, job_name)
        try:
            with sample_system_metrics(
                config.get("system_metrics_s", 0), prefix, partial(send_system_metrics, job_queue, job_name)
            ):
                outcome = runner.run(
                    JOB.validate_python(job_json), report, partial(wait_for_decision, job_queue, job_name)
                )
        except TrialFailedError as error:
            outcome = Failed(str(error))
        except Exception as error:
            if (ending := outcome_of(error)) is not None:
                ray.get(job_queue.finish.remote(job_name, ending))
            else:
                report(LineLogged(f"rank {rank}: {describe_failure(error)}"))
            raise
        if rank == 0:
            ray.get(job_queue.finish.remote(job_name, outcome))


def wait_for_decision(job_queue: Any, job_name: str, rung: int, rungs: int) -> RungDecision:
    """Wait for the driver's decision about a rung, the same on every rank. Ranks: all."""
    decision: list[Any] = [None]
    if dist.get_rank() == 0:
        decision = [ray.get(job_queue.decision.remote(job_name, rung))]
    # All ranks must reach this: a rank that continued alone would wait in the next step for ever.
    dist.broadcast_object_list(decision)
    found: RungDecision = decision[0]
    return found


def send_system_metrics(job_queue: Any, job_name: str, samples: list[dict[str, Any]]) -> None:
    """Send what a worker measured of itself during a job, without waiting."""
    job_queue.add_system_metrics.remote(job_name, samples)


class Reporter:
    """Sends a job's events to the job queue; steps at most once per `PROGRESS_EVERY_S`."""

    def __init__(self, job_queue: Any, job_name: str) -> None:
        self._job_queue, self._job_name = job_queue, job_name
        self._last = 0.0

    def __call__(self, event: Event) -> None:
        """Send one event, without waiting for its arrival."""
        if isinstance(event, StepDone):
            now = time.monotonic()
            if event.step < event.steps and now - self._last < PROGRESS_EVERY_S:
                return
            self._last = now
        self._job_queue.report.remote(self._job_name, event)
