"""Times and peak memory of work on a GPU, in turn, and the file that keeps them."""

import gc
import json
import os
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

MIB = 2**20


class Results:
    """Collects measurements by name; rank 0 prints and writes them."""

    def __init__(self, file: Path) -> None:
        self.file, self.found = file, {}
        file.parent.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, value: Any) -> None:
        """Take down one result."""
        self.found[name] = value
        if dist.get_rank() == 0:
            print(f"{name}: {json.dumps(value)}", flush=True)
            self.file.write_text(json.dumps(self.found, indent=1))

    def measure(self, name: str, work: Callable[[], Any]) -> None:
        """Take down what `work` gives, or why it gives nothing."""
        begun = time.perf_counter()
        try:
            self.add(name, work())
        except Exception:
            self.add(name, {"failed": traceback.format_exc()})
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.add(f"{name}: seconds in all", round(time.perf_counter() - begun, 1))


def machine() -> dict[str, Any]:
    """Hardware and versions."""
    import deepspeed
    import transformers

    return {
        "device": (
            torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
        ),
        "ranks": dist.get_world_size(),
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "deepspeed": deepspeed.__version__,
        },
    }


def synchronize() -> None:
    """Wait until the device has done all that was asked."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_turn(
    works: dict[str, Callable[[], Any]], rounds: int, before: Callable[[], Any] = lambda: None
) -> dict[str, dict[str, float]]:
    """Median and spread of the milliseconds that each work takes, A B A B, after two that do not count; and
    peak memory above the start."""
    times: dict[str, list[float]] = {name: [] for name in works}
    peaks: dict[str, float] = {}
    for number in range(rounds + 2):
        for name, work in works.items():
            before()
            synchronize()
            start = memory(reset=True)
            begun = time.perf_counter()
            work()
            synchronize()
            if number >= 2:
                times[name].append(1e3 * (time.perf_counter() - begun))
                peaks[name] = max(peaks.get(name, 0.0), memory() - start)
    return {
        name: {
            "median_ms": round(statistics.median(taken), 2),
            "least_ms": round(min(taken), 2),
            "most_ms": round(max(taken), 2),
            "peak_mib": round(peaks[name] / MIB),
        }
        for name, taken in times.items()
    }


def memory(reset: bool = False) -> int:
    """Peak bytes of tensors since the last reset; 0 on a CPU."""
    if not torch.cuda.is_available():
        return 0
    if reset:
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.max_memory_allocated()


def used_mib() -> dict[str, float]:
    """Memory of the device: in tensors, held by PyTorch's allocator, and outside of it (context, NCCL,
    libraries)."""
    if not torch.cuda.is_available():
        return {}
    free, total = torch.cuda.mem_get_info()
    reserved = torch.cuda.memory_reserved()
    allocated = torch.cuda.memory_allocated()
    return {
        name: round(value / MIB)
        for name, value in (("tensors", allocated), ("held", reserved), ("outside", total - free - reserved))
    }
