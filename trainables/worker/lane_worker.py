"""The loop of each Ray Train worker of a lane: takes a job, runs it, reports it, until the pool closes."""

import logging
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
"""Least seconds between two progress events of one job, since the job queue serves all lanes."""


class Runner(Protocol):
    """Runs jobs: `trainables.worker.job_runner.JobRunner`, or a stand-in where tests need no training."""

    def run(self, job: AnyJob, report: Report, decide: Decide) -> Finished | Stopped:
        """Run one job to its end. Ranks: all."""


def start_job_runner() -> Runner:
    """Return the runner that trains. Ranks: all."""
    # Imported here, since transformers and DeepSpeed take seconds, and the process group needs neither.
    # DeepSpeed's autotuner would import MLflow, and rouge-score's NLTK scikit-learn, if they are there: half
    # as long again, for features that no job uses.
    with packages_hidden("mlflow", "sklearn"):
        from trainables.engine.deepspeed_setup import start_deepspeed
        from trainables.worker.job_runner import JobRunner

        start_deepspeed()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    return JobRunner()


@contextmanager
def packages_hidden(*names: str) -> Iterator[None]:
    """Make optional packages look as if they were not installed during a block of imports.

    Packages that are imported already stay.
    """
    hidden = [name for name in names if name not in sys.modules]
    # An import of a name that stands for None raises ImportError.
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def lane_loop(config: dict[str, Any], start_runner: Callable[[], Runner] = start_job_runner) -> None:
    """Run jobs from the queue until the pool closes. Ranks: all.

    A trial that fails by its own settings leaves the lane warm. Any other exception may have struck one rank
    in the middle of a collective, so it ends the worker group, and Ray Train starts a new one; the job has
    failed if the exception was its own.

    Args:
        config: `job_queue` (actor handle), `lane` (its name), `threads` per worker, and `system_metrics_s`
            (seconds between two measurements of a worker; 0 or missing for none).
        start_runner: Makes the runner of the jobs.
    """
    job_queue, lane = config["job_queue"], config["lane"]
    measure_every_s = config.get("system_metrics_s", 0)
    torch.set_num_threads(config["threads"])
    runner = start_runner()
    generation = _announce_group(job_queue, lane)
    sequence = 0
    while (entry := ray.get(job_queue.next_job.remote(lane, generation, sequence))) is not None:
        job_name, job_json = entry
        sequence += 1
        outcome = _run_job(runner, job_queue, job_name, job_json, measure_every_s)
        if dist.get_rank() == 0:
            ray.get(job_queue.finish.remote(job_name, outcome))


def join_process_group(rank: int, world_size: int, backend: str, address: str, port: int) -> None:
    """Join this worker to its lane's process group, as Ray Train's own torch backend does. Ranks: all.

    Args:
        rank: Rank of this worker.
        world_size: Number of workers in the lane.
        backend: `nccl` or `gloo`.
        address: Host of rank 0.
        port: Port on which rank 0 listens.
    """
    from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group

    os.environ["MASTER_ADDR"] = address
    os.environ["MASTER_PORT"] = str(port)
    _set_torch_distributed_env_vars()
    _setup_torch_process_group(backend, rank, world_size, init_method="env://")


def _announce_group(job_queue: Any, lane: str) -> str:
    """Announce this worker group to the job queue, and return its generation, the same on every rank."""
    # A new identifier for each start, so that a restarted group is not taken for the one that died.
    generation = [uuid.uuid4().hex]
    context = ray.get_runtime_context()
    workers: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(workers, (context.get_node_id(), context.current_actor))
    if dist.get_rank() == 0:
        # Done before the other ranks know the generation: a rank that requests a job for an unknown
        # generation gets none, and ends.
        ray.get(job_queue.lane_ready.remote(lane, generation[0], workers))
    dist.broadcast_object_list(generation)
    return generation[0]


def _run_job(
    runner: Runner, job_queue: Any, job_name: str, job_json: dict[str, Any], measure_every_s: float
) -> Outcome:
    """Run one job and return its outcome.

    An exception that ends the worker group is reported to the job queue and raised again.
    """
    rank = dist.get_rank()
    prefix = f"rank_{rank}/" if dist.get_world_size() > 1 else ""
    report = Reporter(job_queue, job_name)
    send = partial(send_system_metrics, job_queue, job_name)
    decide = partial(wait_for_decision, job_queue, job_name)
    try:
        with sample_system_metrics(measure_every_s, prefix, send):
            return runner.run(JOB.validate_python(job_json), report, decide)
    except TrialFailedError as error:
        return Failed(str(error))
    except Exception as error:
        outcome = outcome_of(error)
        if outcome is not None:
            ray.get(job_queue.finish.remote(job_name, outcome))
        else:
            report(LineLogged(f"rank {rank}: {describe_failure(error)}"))
        raise


def wait_for_decision(job_queue: Any, job_name: str, rung: int, rungs: int) -> RungDecision:
    """Wait for the driver's decision about a rung, the same on every rank. Ranks: all."""
    decision: list[Any] = [None]
    if dist.get_rank() == 0:
        decision = [ray.get(job_queue.decision.remote(job_name, rung))]
    # All ranks must get the decision: one that continued alone would wait in the next step for ever.
    dist.broadcast_object_list(decision)
    found: RungDecision = decision[0]
    return found


def send_system_metrics(job_queue: Any, job_name: str, samples: list[dict[str, Any]]) -> None:
    """Send the system metrics that a worker measured during a job, without waiting."""
    job_queue.add_system_metrics.remote(job_name, samples)


class Reporter:
    """Sends a job's events to the job queue; steps at most once in `PROGRESS_EVERY_S`."""

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
