"""System metrics of a trial's workers, in a file beside the trial's log.

The file is the queue from which MLflow's background sender takes them; the study does not hold them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple


class WorkerSample(NamedTuple):
    """One measurement of one worker."""

    number: int
    """Line number in the file, from 0, over all workers and attempts of the trial."""
    at: float
    """Unix time in seconds."""
    values: Mapping[str, float]
    """Values by name, such as `rank_0/cpu_utilization_percentage`."""


def append_system_metrics(path: Path, samples: Iterable[Mapping[str, Any]]) -> None:
    """Appends samples in the form in which `trainables.worker.system_metrics_sampler` sends them.

    Raises:
        OSError: The file cannot be written, for example because the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(f"{json.dumps(dict(sample))}\n" for sample in samples)


def read_samples(path: Path, seen: int) -> Iterator[WorkerSample]:
    """Yields the samples after the first `seen` lines; none if the file does not exist."""
    if not path.is_file():
        return
    with path.open() as file:
        for number, line in enumerate(islice(file, seen, None), seen):
            try:
                sample = json.loads(line)
                yield WorkerSample(number, sample["at"], sample["values"])
            except (json.JSONDecodeError, KeyError):
                # A driver that was killed, or whose disk was full, leaves an incomplete line. It keeps its
                # number, so that the count of lines that were sent stays valid.
                continue
