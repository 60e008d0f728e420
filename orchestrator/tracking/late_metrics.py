"""Metrics that come after a trial's end: added to its run, whatever has become of the sweep since."""

from collections.abc import Mapping

from orchestrator.tracking.tracked_sweep import readable_store


def add_metrics(uri: str, run_id: str, metrics: Mapping[str, float]) -> None:
    """Log metrics to a run that is there.

    Args:
        uri: Of the store.
        run_id: Of the trial's run.
        metrics: By name.

    Raises:
        UserError: The store is away, or has no such run.
    """
    from mlflow.entities import Metric

    with readable_store(uri) as client:
        when = client.get_run(run_id).info.end_time or 0
        client.log_batch(run_id, metrics=[Metric(name, value, when, 0) for name, value in metrics.items()])
