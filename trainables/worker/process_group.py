"""Joins the ranks of a lane to one torch process group."""

import os

from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group


def join_process_group(rank: int, world_size: int, backend: str, address: str, port: int) -> None:
    """Join this worker to its lane's process group, as Ray Train's own torch backend does. Ranks: all.

    Args:
        rank: Rank of this worker.
        world_size: Number of workers in the lane.
        backend: `nccl` or `gloo`.
        address: Host of rank 0.
        port: Port on which rank 0 listens.
    """
    os.environ["MASTER_ADDR"] = address
    os.environ["MASTER_PORT"] = str(port)
    _set_torch_distributed_env_vars()
    _setup_torch_process_group(backend, rank, world_size, init_method="env://")
