"""Warm lanes: long-lived Ray Train worker groups that belong to the sweep and run one job after another."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2.api.config import FailureConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.lanes.job_queue import JobNews, JobQueue, LanesSnapshot
from orchestrator.lanes.retries import Retries
from orchestrator.lanes.sigterm import terminating
from search_spaces.settings.sweep_settings import ResourceSettings
from trainables.events import RungDecision
from trainables.jobs import AnyJob

logger = logging.getLogger(__name__)

MOST_RESTARTS = 8
"""Times one lane's workers are started again after they died, beside once for every job, which may have been
the cause."""

WATCH_EVERY_S = 1.0
"""Seconds between looks for the first lane."""

CLOSE_S = 60.0
"""Seconds that lanes get to end their jobs and go home when the pool closes."""

CLOSE_IDLE_S = 20.0
"""Seconds that they get where nobody has a job."""


class LanePool:
    """Starts lanes, hands them jobs, and sends them home. Use it as a context manager.

    Args:
        lanes: How many worker groups.
        resources: What each holds.
        storage: Folder for Ray Train's own bookkeeping.
        jobs: How many jobs there will be: each may break the workers that run it, as one that runs out of
            memory does.
        worker: What each worker runs with `job_queue`, `lane` and `threads`;
            `trainables.worker.lane_worker.lane_loop` when left out.
        system_metrics_s: Seconds between two measurements that each worker makes of itself; 0: none.
    """

    def __init__(
        self,
        lanes: int,
        resources: ResourceSettings,
        storage: Path,
        jobs: int = 0,
        worker: Callable[[dict[str, Any]], None] | None = None,
        system_metrics_s: float = 0.0,
    ) -> None:
        self.lanes, self.resources, self.storage = lanes, resources, storage
        self._system_metrics_s = system_metrics_s
        self._worker = worker or _start_worker
        self._restarts = MOST_RESTARTS + jobs * (resources.attempts + resources.preemptions)
        # On the driver's own node: on another one it could go away while the driver lives.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        job_queue = ray.remote(JobQueue).options(num_cpus=0, max_concurrency=1000, scheduling_strategy=here)
        self.job_queue: Any = job_queue.remote(
            Retries(resources.attempts, resources.preemptions), _alive_nodes
        )
        self._threads: list[threading.Thread] = []
        self._alive = 0
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        self._alive = self.lanes
        for number in range(self.lanes):
            name = f"lane{number}"
            thread = threading.Thread(target=self._run_lane, args=(name,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        threading.Thread(target=self._watch, name="lane watch", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        ray.get(self.job_queue.close.remote())
        snapshot = self.snapshot()
        # A lane that is not up has no worker that could end by itself.
        up = [thread for thread in self._threads if thread.name in snapshot.lanes]
        if terminating():
            return
        _all_end(up, CLOSE_S if snapshot.running else CLOSE_IDLE_S)
        if not _all_end(self._threads, 0):
            self._end_what_is_left()

    def _end_what_is_left(self) -> None:
        """End lanes that wait for room, start workers again, or have one that hangs. Ray must not end below
        them: that ends the process."""
        for _, worker in ray.get(self.job_queue.all_workers.remote()):
            ray.kill(worker)
        ended: set[str] = set()
        deadline = time.monotonic() + CLOSE_S
        while not _all_end(self._threads, WATCH_EVERY_S) and time.monotonic() < deadline:
            # Asked again and again: one that has only just been started takes seconds until it can be named.
            for name, controller in ray.get(self.job_queue.controllers.remote()).items():
                if name not in ended and any(
                    thread.is_alive() for thread in self._threads if thread.name == name
                ):
                    logger.warning("%s is ended: it was not up, or did not go home", name)
                    ended.add(name)
                    ray.kill(controller)

    def submit(self, job_name: str, job: AnyJob) -> None:
        """Queue a job under a name that is its own."""
        ray.get(self.job_queue.submit.remote(job_name, job.model_dump(mode="json")))

    def decide(self, job_name: str, rung: int, decision: RungDecision) -> None:
        """Decide about a rung of a job, before or after the job reaches it; the first decision counts."""
        ray.get(self.job_queue.decide.remote(job_name, rung, decision))

    def news(self, seen: Mapping[str, int]) -> dict[str, JobNews]:
        """What is new of some jobs, after at most a few seconds: see `JobQueue.news`."""
        found: dict[str, JobNews] = ray.get(self.job_queue.news.remote(dict(seen)))
        return found

    def snapshot(self) -> LanesSnapshot:
        """What the lanes are doing: see `JobQueue.snapshot`."""
        found: LanesSnapshot = ray.get(self.job_queue.snapshot.remote())
        return found

    def _watch(self) -> None:
        """Give up where Ray would wait for ever: for resources that others hold, and for workers that
        hang."""
        if not self._first_lane_started():
            return
        while not self._closed.wait(WATCH_EVERY_S):
            ray.get(self.job_queue.check_nodes.remote())
            for _, worker in ray.get(self.job_queue.hung.remote(self.resources.quiet_timeout_s)):
                logger.warning(
                    "a worker is killed: its job gave no sign of life for %g s",
                    self.resources.quiet_timeout_s,
                )
                ray.kill(worker)

    def _first_lane_started(self) -> bool:
        deadline = time.monotonic() + self.resources.start_timeout_s
        while not self._closed.wait(WATCH_EVERY_S):
            if self.snapshot().lanes:
                return True
            if time.monotonic() > deadline:
                reason = (
                    f"no lane started within resources.start_timeout_s = {self.resources.start_timeout_s:g}"
                    " s: is the cluster busy?"
                )
                ray.get(self.job_queue.no_lane_left.remote(reason))
                return False
        return False

    def _run_lane(self, name: str) -> None:
        resources = self.resources
        needs: dict[str, float] = {"CPU": resources.cpus_per_worker}
        if resources.gpus_per_worker:
            needs["GPU"] = resources.gpus_per_worker
        trainer = TorchTrainer(
            self._worker,
            train_loop_config={
                "job_queue": self.job_queue,
                "lane": name,
                "threads": max(1, int(resources.cpus_per_worker)),
                "system_metrics_s": self._system_metrics_s,
            },
            scaling_config=ScalingConfig(
                num_workers=resources.workers_per_trial,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker=needs,
            ),
            torch_config=TorchConfig(backend="nccl" if resources.gpus_per_worker else "gloo"),
            run_config=RunConfig(
                name=f"{name}-{int(time.time())}",
                storage_path=str(self.storage),
                callbacks=[_TellsController(self.job_queue, name)],  # type: ignore[list-item]
                # Left alone, the controller tries for ever to place workers that never fit.
                failure_config=FailureConfig(
                    max_failures=self._restarts, controller_failure_limit=MOST_RESTARTS
                ),
            ),
        )
        reason = "the lanes were sent home"
        try:
            trainer.fit()
        # Whatever ended the lane is told to the jobs that waited for it; Ray ends a waiting thread by
        # SystemExit when its session goes.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            reason = (
                f"{name} could not go on:"
                f" {str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__}"
            )
            logger.warning("%s", reason)
        if self._closed.is_set():
            return  # nobody waits any more, and Ray may be gone
        ray.get(self.job_queue.lane_ended.remote(name))
        with self._lock:
            self._alive -= 1
            if self._alive == 0:
                ray.get(self.job_queue.no_lane_left.remote(reason))


class _TellsController(ControllerCallback):
    """Tells the mailbox by which actor a lane can be ended; Ray keeps its handle to itself."""

    def __init__(self, job_queue: Any, lane: str) -> None:
        self._job_queue, self._lane = job_queue, lane

    def after_controller_start(self, train_run_context: Any) -> None:
        ray.get(self._job_queue.lane_begun.remote(self._lane, ray.get_runtime_context().current_actor))


def _all_end(threads: list[threading.Thread], seconds: float) -> bool:
    """Wait for threads. Returns: whether all have ended in time."""
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


def _alive_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _start_worker(config: dict[str, Any]) -> None:
    # Imported in the worker: the driver stays free of torch.
    from trainables.worker.lane_worker import lane_loop

    lane_loop(config)
