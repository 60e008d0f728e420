"""Measures what a worker uses while it runs a job: CPU, memory and its GPU, in a thread beside the work."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch

SEND_EVERY_S = 5.0
"""Least seconds between two messages of one worker, since the job queue serves all lanes."""

SHORTEST_S = 0.1
"""Shortest time in seconds over which a CPU utilization means anything."""

MEGABYTE = 1e6
"""Bytes in a megabyte as MLflow counts them."""

Sensors = dict[str, Callable[[], float]]
"""Functions that measure one value each, by name of the metric; one that raises does not work here."""

Send = Callable[[list[dict[str, Any]]], object]
"""Sends samples without waiting; each has `at` (Unix time in seconds) and `values` (by name)."""


@contextmanager
def sample_system_metrics(every_s: float, prefix: str, send: Send) -> Iterator[None]:
    """Measure this worker while a block runs, and once at its end.

    Args:
        every_s: Seconds between two samples; 0 for none.
        prefix: Put in front of every name.
        send: Called in a thread of its own, and also shortly after the block, which does not wait for it.
    """
    if not every_s:
        yield
        return
    sensors = worker_sensors(_device())
    ended = threading.Event()
    thread = threading.Thread(
        target=_sample, args=(sensors, every_s, prefix, send, ended), name="samples", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        ended.set()


def worker_sensors(device: int | None) -> Sensors:
    """Return the sensors of this process and its machine, under MLflow's names where it has one.

    Args:
        device: Index of the process's GPU among those it sees; None for a worker without a GPU.
    """
    process = psutil.Process()
    # The first call only starts the interval over which the second one measures.
    process.cpu_percent()
    sensors: Sensors = {
        "cpu_utilization_percentage": process.cpu_percent,
        "process_memory_usage_megabytes": lambda: process.memory_info().rss / MEGABYTE,
        "system_memory_usage_percentage": lambda: psutil.virtual_memory().percent,
    }
    if device is None:
        return sensors
    total = torch.cuda.get_device_properties(device).total_memory
    # Torch queries NVML through nvidia-ml-py, and maps the index to the right GPU of the node.
    return sensors | {
        "gpu_0_memory_usage_megabytes": lambda: torch.cuda.device_memory_used(device) / MEGABYTE,
        "gpu_0_memory_usage_percentage": lambda: 100 * torch.cuda.device_memory_used(device) / total,
        "gpu_0_utilization_percentage": lambda: torch.cuda.utilization(device),
        "gpu_0_power_usage_watts": lambda: torch.cuda.power_draw(device) / 1000,
    }


def read_sensors(sensors: Sensors) -> dict[str, float]:
    """Return one value of each sensor by name, and remove the sensors that do not work here."""
    values = {}
    for name, sensor in list(sensors.items()):
        try:
            values[name] = float(sensor())
        except Exception:  # noqa: BLE001
            # A missing driver, a missing nvidia-ml-py and a GPU without a power sensor raise different
            # exceptions, and none of them may end the job.
            del sensors[name]
    return values


def _sample(sensors: Sensors, every_s: float, prefix: str, send: Send, ended: threading.Event) -> None:
    samples: list[dict[str, Any]] = []
    sent = measured = time.monotonic()
    last = False
    while not last:
        last = ended.wait(every_s)
        if last and samples and time.monotonic() - measured < SHORTEST_S:
            send(samples)
            return
        measured = time.monotonic()
        values = {f"{prefix}{name}": value for name, value in read_sensors(sensors).items()}
        samples.append({"at": time.time(), "values": values})
        if last or time.monotonic() - sent >= SEND_EVERY_S:
            send(samples)
            samples = []
            sent = time.monotonic()


def _device() -> int | None:
    # Called in the thread that trains, since every thread has a current device of its own. A worker without
    # a GPU must not initialise CUDA here.
    return torch.cuda.current_device() if torch.cuda.is_initialized() else None
