"""Warm lanes: Ray Train worker groups that stay up for the whole sweep and run one job after another."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.v2.api.config import FailureConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.lanes.job_queue import JobNews, JobQueue, LanesSnapshot
from orchestrator.lanes.lane_trainer import ControllerRegistration, LaneTrainer, ProcessGroupConfig
from orchestrator.lanes.ray_session import alive_nodes
from orchestrator.lanes.retries import Retries
from orchestrator.lanes.sigterm import terminating
from search_spaces.settings.sweep_settings import ResourceSettings
from trainables.events import RungDecision
from trainables.jobs import AnyJob

logger = logging.getLogger(__name__)

MOST_RESTARTS = 8
"""Restarts of one lane's workers that are allowed on top of those that the jobs may cause."""

WATCH_EVERY_S = 1.0
"""Seconds between two checks of the lanes and their workers."""

CLOSE_S = 60.0
"""Seconds that the lanes get to finish their jobs and end when the pool closes."""

CLOSE_IDLE_S = 20.0
"""Seconds that they get when no lane has a job."""


class LanePool:
    """Starts lanes, passes jobs to them, and ends them. Used as a context manager.

    Args:
        lanes: Number of worker groups.
        resources: Workers and resources of each lane, limits on retries, and timeouts.
        storage: Folder for Ray Train's own files.
        jobs: Number of jobs to expect. A job may break the workers that run it, for example by running out
            of memory, so the lanes may restart more often when there are more jobs.
        worker: Function that each worker runs, given `job_queue`, `lane`, `threads` and `system_metrics_s`;
            `trainables.worker.lane_worker.lane_loop` when None.
        system_metrics_s: Seconds between two measurements that each worker makes of itself; 0 for none.
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
        self.lanes = lanes
        self.resources = resources
        self.storage = storage
        self._worker = worker or _start_worker
        self._system_metrics_s = system_metrics_s
        self._restarts = MOST_RESTARTS + jobs * (resources.attempts + resources.preemptions)
        # The queue runs on the driver's node, because another node could go away while the driver lives.
        driver_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # Every rank that waits for a job or a decision occupies one of the concurrent calls.
        queue_actor = ray.remote(JobQueue).options(
            num_cpus=0, max_concurrency=1000, scheduling_strategy=driver_node
        )
        retries = Retries(resources.attempts, resources.preemptions)
        self.job_queue: Any = queue_actor.remote(retries, alive_nodes)
        """Handle of the job queue's actor."""
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
        if terminating():
            return
        # Only the lanes that are up have workers that can end by themselves.
        up = [thread for thread in self._threads if thread.name in snapshot.lanes]
        _join(up, CLOSE_S if snapshot.running else CLOSE_IDLE_S)
        if not _join(self._threads, 0):
            self._kill_lanes()

    def submit(self, job_name: str, job: AnyJob) -> None:
        """Queue a job under a name that no other job of the pool has."""
        ray.get(self.job_queue.submit.remote(job_name, job.model_dump(mode="json")))

    def decide(self, job_name: str, rung: int, decision: RungDecision) -> None:
        """Decide about a rung of a job, before or after the job reaches it; the first decision counts."""
        ray.get(self.job_queue.decide.remote(job_name, rung, decision))

    def news(self, seen: Mapping[str, int]) -> dict[str, JobNews]:
        """Return what is new of some jobs, after at most a few seconds: see `JobQueue.news`."""
        found: dict[str, JobNews] = ray.get(self.job_queue.news.remote(dict(seen)))
        return found

    def snapshot(self) -> LanesSnapshot:
        """Return what the lanes are doing: see `JobQueue.snapshot`."""
        found: LanesSnapshot = ray.get(self.job_queue.snapshot.remote())
        return found

    def _watch(self) -> None:
        """Kill hung workers and take jobs back from lost nodes until the pool closes. Runs in a thread.

        Ray itself would wait for ever for workers that hang, and for resources that others hold.
        """
        if not self._wait_for_first_lane():
            return
        timeout_s = self.resources.quiet_timeout_s
        while not self._closed.wait(WATCH_EVERY_S):
            ray.get(self.job_queue.check_nodes.remote())
            for _, worker in ray.get(self.job_queue.hung.remote(timeout_s)):
                logger.warning("a worker is killed: its job gave no sign of life for %g s", timeout_s)
                ray.kill(worker)

    def _wait_for_first_lane(self) -> bool:
        """Wait until a lane is up, and end all jobs as lost if none is within the start timeout.

        Returns:
            Whether a lane is up; False also if the pool closes first.
        """
        timeout_s = self.resources.start_timeout_s
        deadline = time.monotonic() + timeout_s
        while not self._closed.wait(WATCH_EVERY_S):
            if self.snapshot().lanes:
                return True
            if time.monotonic() > deadline:
                reason = (
                    f"no lane started within resources.start_timeout_s = {timeout_s:g} s:"
                    " is the cluster busy?"
                )
                ray.get(self.job_queue.no_lane_left.remote(reason))
                return False
        return False

    def _run_lane(self, name: str) -> None:
        """Run one lane until the pool closes, or until it cannot be restarted. Runs in the lane's thread."""
        reason = "all lanes have ended"
        try:
            self._build_trainer(name).fit()
        # Jobs that wait for this lane need the reason, whatever it is. Ray raises SystemExit in a thread that
        # waits for it when its session ends.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            text = str(error).strip()
            cause = text.splitlines()[-1] if text else type(error).__name__
            reason = f"{name} could not go on: {cause}"
            logger.warning("%s", reason)
        if self._closed.is_set():
            # No job waits any more, and Ray may have been shut down.
            return
        ray.get(self.job_queue.lane_ended.remote(name))
        with self._lock:
            self._alive -= 1
            if self._alive == 0:
                ray.get(self.job_queue.no_lane_left.remote(reason))

    def _build_trainer(self, name: str) -> LaneTrainer:
        resources = self.resources
        needs: dict[str, float] = {"CPU": resources.cpus_per_worker}
        if resources.gpus_per_worker:
            needs["GPU"] = resources.gpus_per_worker
        return LaneTrainer(
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
            backend_config=ProcessGroupConfig("nccl" if resources.gpus_per_worker else "gloo"),
            run_config=RunConfig(
                name=f"{name}-{int(time.time())}",
                storage_path=str(self.storage),
                callbacks=[ControllerRegistration(self.job_queue, name)],  # type: ignore[list-item]
                # Without its limit the controller would try for ever to place workers that never fit.
                failure_config=FailureConfig(
                    max_failures=self._restarts, controller_failure_limit=MOST_RESTARTS
                ),
            ),
        )

    def _kill_lanes(self) -> None:
        """Kill the lanes that have not ended by themselves: they wait for room, restart, or hang.

        This must happen before Ray shuts down: a thread that still waits for Ray then ends the whole process.
        """
        for _, worker in ray.get(self.job_queue.all_workers.remote()):
            ray.kill(worker)
        killed: set[str] = set()
        deadline = time.monotonic() + CLOSE_S
        while not _join(self._threads, WATCH_EVERY_S) and time.monotonic() < deadline:
            # Fetched in each round: the controller of a lane that has just begun is known only after seconds.
            controllers = ray.get(self.job_queue.controllers.remote())
            running = {thread.name for thread in self._threads if thread.is_alive()}
            for name in sorted((controllers.keys() & running) - killed):
                logger.warning("%s is killed: it was not up, or did not end in time", name)
                killed.add(name)
                ray.kill(controllers[name])


def _join(threads: Sequence[threading.Thread], seconds: float) -> bool:
    """Wait for threads, and return whether all have ended in time."""
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


def _start_worker(config: dict[str, Any]) -> None:
    # Imported in the worker, so that the driver needs no torch.
    from trainables.worker.lane_worker import lane_loop

    lane_loop(config)
