"""Writes one MLflow run: sends the metrics, parameters, tags and status that it lacks, and nothing twice."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from orchestrator.storage.provenance import redacted
from orchestrator.tracking.run_contents import TAG_CHARACTERS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# MLflow's own limits of one request.
_METRICS_PER_BATCH = 1000
_PARAMS_PER_BATCH = 100
# Longer values make the run page of the UI hard to read; the artifact sweep.json has them in full.
_PARAM_CHARACTERS = 500


class RunWriter:
    """Keeps what MLflow already holds of one run, and sends the difference.

    Args:
        client: Client of the store that holds the run.
        run: The run as the store has returned it.
    """

    def __init__(self, client: "MlflowClient", run: "Run") -> None:
        self._client = client
        self.run_id: str = run.info.run_id
        self.status: str = run.info.status
        self.tags: dict[str, str] = dict(run.data.tags)
        """The tags that MLflow holds."""
        self._params = set(run.data.params)
        # A run lists its metrics but not their steps, which cost one request per metric. They are fetched
        # only when something is to be sent for that metric.
        self._unread = set(run.data.metrics)
        self._steps: dict[str, set[int]] = {}

    def add(
        self,
        metrics: Sequence[tuple[str, float, int, int]] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Sends the metrics, parameters and tags that the run lacks.

        Args:
            metrics: Key, value, step, and Unix time in ms. A step that the run already has is not sent again.
            params: Parameters, shortened to fit; MLflow cannot change those that the run already has.
            tags: Tags, shortened to fit; those that have changed are sent again.
        """
        from mlflow.entities import Metric, Param, RunTag

        for key in self._unread & {metric[0] for metric in metrics}:
            self._steps[key] = {metric.step for metric in self._client.get_metric_history(self.run_id, key)}
            self._unread.discard(key)
        new_metrics = [
            Metric(key, value, when, step)
            for key, value, step, when in metrics
            if step not in self._steps.get(key, ())
        ]
        new_params = [
            Param(key, redacted(value)[:_PARAM_CHARACTERS])
            for key, value in (params or {}).items()
            if key not in self._params
        ]
        cleaned = {key: redacted(value)[:TAG_CHARACTERS] for key, value in (tags or {}).items()}
        new_tags = {key: value for key, value in cleaned.items() if self.tags.get(key) != value}
        for start in range(0, len(new_metrics), _METRICS_PER_BATCH - 1):
            self._client.log_batch(self.run_id, metrics=new_metrics[start : start + _METRICS_PER_BATCH - 1])
        for start in range(0, len(new_params), _PARAMS_PER_BATCH):
            self._client.log_batch(self.run_id, params=new_params[start : start + _PARAMS_PER_BATCH])
        if new_tags:
            self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in new_tags.items()])
        # Noted only after every request has succeeded: after an error the run is read anew.
        for metric in new_metrics:
            self._steps.setdefault(metric.key, set()).add(metric.step)
        self._params |= {param.key for param in new_params}
        self.tags |= new_tags

    def set_status(self, status: str, ended_ms: int | None) -> None:
        """Sets the status of the run, unless it has that status.

        Args:
            status: `RUNNING`, `FINISHED`, `FAILED` or `KILLED`.
            ended_ms: Unix time in ms at which the run ended; None for now.
        """
        if self.status == status:
            return
        if status == "RUNNING":
            self._client.update_run(self.run_id, status=status)
        else:
            self._client.set_terminated(self.run_id, status, ended_ms)
        self.status = status
