"""What a worker uses while it runs a job: CPU, memory and its GPU, measured in a thread beside the work."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch

SEND_EVERY_S = 5.0
"""Least time between two messages of one worker: the mailbox serves every lane."""

SHORTEST_S = 0.1
"""Least time over which a use of the CPU says anything."""

MEGABYTE = 1e6
"""As MLflow counts it."""

Send = Callable[[list[dict[str, Any]]], object]
"""Takes samples, `at` (Unix time in s) and `values` by name, without waiting."""


@contextmanager
def sample_system_metrics(every_s: float, prefix: str, send: Send) -> Iterator[None]:
    """Measure the worker while a block runs, and once at its end.

    Args:
        every_s: Seconds between samples; 0: none.
        prefix: Put before every name.
        send: Called from a thread of its own, also a little after the block: nothing waits for it.
    """
    if not every_s:
        yield
        return
    sensors = worker_sensors(_device())
    ended = threading.Event()
    threading.Thread(
        target=_measure, args=(sensors, every_s, prefix, send, ended), name="samples", daemon=True
    ).start()
    try:
        yield
    finally:
        ended.set()


def worker_sensors(device: int | None) -> dict[str, Callable[[], float]]:
    """Ways to measure this process and its machine by MLflow's names, where it has one for the same thing.

    Args:
        device: Index of the process's GPU among those it sees; None where it has none.

    Returns:
        Functions by name; one that raises does not work here.
    """
    process = psutil.Process()
    process.cpu_percent()  # the first call only starts the clock
    sensors: dict[str, Callable[[], float]] = {
        "cpu_utilization_percentage": process.cpu_percent,
        "process_memory_usage_megabytes": lambda: process.memory_info().rss / MEGABYTE,
        "system_memory_usage_percentage": lambda: psutil.virtual_memory().percent,
    }
    if device is None:
        return sensors
    total = torch.cuda.get_device_properties(device).total_memory
    # Torch asks NVML, through nvidia-ml-py, and knows which of the node's GPUs is meant.
    return sensors | {
        "gpu_0_memory_usage_megabytes": lambda: torch.cuda.device_memory_used(device) / MEGABYTE,
        "gpu_0_memory_usage_percentage": lambda: 100 * torch.cuda.device_memory_used(device) / total,
        "gpu_0_utilization_percentage": lambda: torch.cuda.utilization(device),
        "gpu_0_power_usage_watts": lambda: torch.cuda.power_draw(device) / 1000,
    }


def measure(sensors: dict[str, Callable[[], float]]) -> dict[str, float]:
    """One value of each sensor; one that does not work here is taken out."""
    values = {}
    for name, sensor in list(sensors.items()):
        try:
            values[name] = float(sensor())
        except Exception:  # noqa: BLE001
            # No driver, no nvidia-ml-py, a GPU that does not tell its power: each has an exception of its
            # own, and none is the trial's.
            del sensors[name]
    return values


def _measure(
    sensors: dict[str, Callable[[], float]], every_s: float, prefix: str, send: Send, ended: threading.Event
) -> None:
    samples: list[dict[str, Any]] = []
    sent = measured = time.monotonic()
    last = False
    while not last:
        last = ended.wait(every_s)
        if last and samples and time.monotonic() - measured < SHORTEST_S:
            send(samples)
            return
        measured = time.monotonic()
        samples.append(
            {
                "at": time.time(),
                "values": {f"{prefix}{name}": value for name, value in measure(sensors).items()},
            }
        )
        if last or time.monotonic() - sent >= SEND_EVERY_S:
            send(samples)
            samples, sent = [], time.monotonic()


def _device() -> int | None:
    # Asked in the thread that trains: each thread has a current device of its own. A worker without a GPU
    # must not start CUDA here.
    return torch.cuda.current_device() if torch.cuda.is_initialized() else None
