"""What workers measured of themselves during a trial, as a file beside its log: the queue on disk for MLflow.
No part of the study."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple


class WorkerSample(NamedTuple):
    """One measurement of one worker."""

    number: int
    """Its line in the file: counts the samples of a trial, over all its workers and starts."""
    at: float
    """Unix time in s."""
    values: Mapping[str, float]
    """Values by name, such as `rank_0/cpu_utilization_percentage`."""


def append_system_metrics(path: Path, samples: Iterable[Mapping[str, Any]]) -> None:
    """Add samples as `trainables.worker.system_metrics_sampler` sends them.

    Raises:
        OSError: The disk is full, say.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(f"{json.dumps(dict(sample))}\n" for sample in samples)


def read_samples(path: Path, seen: int) -> Iterator[WorkerSample]:
    """Samples after the first `seen` lines; none where there is no file."""
    if not path.is_file():
        return
    with path.open() as file:
        for number, line in enumerate(islice(file, seen, None), seen):
            try:
                sample = json.loads(line)
                yield WorkerSample(number, sample["at"], sample["values"])
            except (json.JSONDecodeError, KeyError):
                continue  # half a line, of a driver that was killed or had no room
