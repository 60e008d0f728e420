"""Converts workers' resource samples to MLflow's system metrics, which the UI shows on a separate tab."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from orchestrator.storage.system_metrics_file import WorkerSample

if TYPE_CHECKING:
    from mlflow.entities import Metric

SYSTEM = "system/"
"""MLflow's own prefix, by which the UI distinguishes system metrics from a model's metrics."""

SENT = "lethe.worker_samples"
"""Tag of a trial's run with the number of samples of its file that have been sent."""

METRICS_PER_BATCH = 900
"""Batch size at which a batch is sent, below MLflow's limit of 1000, because samples are not split."""


def system_metrics_sent(tags: Mapping[str, str]) -> int:
    """Returns how many samples have been sent to a run with these tags."""
    return int(tags.get(SENT, 0))


def system_metrics(samples: Iterable[WorkerSample]) -> "Iterator[tuple[list[Metric], dict[str, str]]]":
    """Yields batches of metrics, each with the tag that states how many samples have then been sent."""
    from mlflow.entities import Metric

    batch: list[Metric] = []
    reached = 0
    for sample in samples:
        at = round(1000 * sample.at)
        batch += [
            Metric(f"{SYSTEM}{name}", value, at, sample.number) for name, value in sample.values.items()
        ]
        reached = sample.number + 1
        if len(batch) >= METRICS_PER_BATCH:
            yield batch, {SENT: str(reached)}
            batch = []
    if batch:
        yield batch, {SENT: str(reached)}
