"""A real sweep whose workers measure themselves."""

import mlflow

from tests.support.processes.launch import lethe
from tests.support.sweeps.small_sweeps import SWEEP, child_runs, load_study, write_sweep

NAMES = {"cpu_utilization_percentage", "process_memory_usage_megabytes", "system_memory_usage_percentage"}


def test_use_of_every_worker_is_in_mlflow_and_nowhere_in_the_study(finished, head, tmp_path):
    _, storage, _ = finished
    search = {**SWEEP["search"], "trials": 1}
    file = write_sweep(
        tmp_path, name="measured", search=search, redact=True, tracking={"system_metrics_s": 0.2}
    )
    lethe("run", str(file), storage=storage, **head.joined)
    client = mlflow.MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    children = child_runs(storage, "measured")
    assert len(children) == 1
    for run in children:
        assert {key for key in run.data.metrics if key.startswith("system/")} >= {
            f"system/rank_{rank}/{name}" for rank in (0, 1) for name in NAMES
        }
        points = client.get_metric_history(run.info.run_id, "system/rank_1/process_memory_usage_megabytes")
        assert all(100 < point.value < 10_000 for point in points)
        # The last one is taken at the end of the job, a moment before or after the driver notes it.
        assert all(run.info.start_time <= point.timestamp <= run.info.end_time + 5000 for point in points)
        assert len(client.get_metric_history(run.info.run_id, "validation/utility")) == 2
    told = (storage / "measured" / "study.journal").read_text()
    assert "utilization" not in told and "memory_usage" not in told
    # Measured or not, the results are the same.
    assert (
        load_study(storage, "measured").get_trials()[0].values
        == load_study(storage, "tiny").get_trials()[0].values
    )
