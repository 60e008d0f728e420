"""Ray Train's trainer as a lane needs it: its processes on the head need no torch, and are few."""

from dataclasses import dataclass
from typing import Any

import ray
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2.api.callback import RayTrainCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


class LaneTrainer(DataParallelTrainer):
    """Ray Train's trainer without two actors of 200 MB each that it would start for every lane on the head.

    One shards Ray datasets, of which a lane has none. The other frees the workers' places when a controller
    dies while its driver lives on; it stays on the cluster for good after each command, and the places are
    freed with the driver in any case.
    """

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        unused = (DatasetsCallback, PlacementGroupCleanerCallback)
        callbacks: list[RayTrainCallback] = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, unused)]


class ControllerRegistration(ControllerCallback):
    """Sends the handle of a lane's controller to the job queue.

    Ray keeps that handle to itself, and a lane that waits for room can be ended by no other.
    """

    def __init__(self, job_queue: Any, lane: str) -> None:
        self._job_queue = job_queue
        self._lane = lane

    def after_controller_start(self, train_run_context: Any) -> None:
        """Send the handle, in the controller's own process."""
        controller = ray.get_runtime_context().current_actor
        ray.get(self._job_queue.lane_begun.remote(self._lane, controller))


@dataclass
class ProcessGroupConfig(BackendConfig):
    """How the workers of a lane talk to each other.

    `ray.train.torch.TorchConfig` does the same, but it makes the driver and the controller of every lane
    import torch: 3 s and 200 MB each, on the head node, for nothing.
    """

    backend: str
    """`nccl` or `gloo`."""

    @property
    def backend_cls(self) -> type[Backend]:
        """Return what Ray Train calls when the workers have started."""
        return _ProcessGroupBackend


class _ProcessGroupBackend(Backend):
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Have all workers of a lane that has just started join one process group."""
        assert isinstance(backend_config, ProcessGroupConfig)
        address, port = worker_group.execute_single(0, get_address_and_port)
        size = len(worker_group)
        # All at once, since each rank waits for the others.
        ray.get(
            [
                worker_group.execute_single_async(
                    rank, _join, rank, size, backend_config.backend, address, port
                )
                for rank in range(size)
            ]
        )


def _join(rank: int, world_size: int, backend: str, address: str, port: int) -> None:
    # Imported in the worker.
    from trainables.worker.lane_worker import join_process_group

    join_process_group(rank, world_size, backend, address, port)
