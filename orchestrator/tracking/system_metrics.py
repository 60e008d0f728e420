"""What workers measured of themselves, as MLflow's system metrics: the UI shows them on a tab of their
own."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from orchestrator.storage.system_metrics_file import WorkerSample

if TYPE_CHECKING:
    from mlflow.entities import Metric

SYSTEM = "system/"
"""MLflow's own prefix, by which the UI tells them from a model's metrics."""

SENT = "lethe.worker_samples"
"""Tag of a trial's run: how many lines of its file have been sent."""

METRICS_PER_BATCH = 900
"""A little under MLflow's limit of one request, for a sample's values stay together."""


def system_metrics_sent(tags: Mapping[str, str]) -> int:
    """How many samples a run with these tags has."""
    return int(tags.get(SENT, 0))


def system_metrics(samples: Iterable[WorkerSample]) -> "Iterator[tuple[list[Metric], dict[str, str]]]":
    """Batches of metrics, each with the tag that says how far it goes."""
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
