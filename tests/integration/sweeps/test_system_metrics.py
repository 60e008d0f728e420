"""A real sweep whose workers measure themselves."""

from tests.support.sweeps.small_sweeps import child_runs

NAMES = {"cpu_utilization_percentage", "process_memory_usage_megabytes", "system_memory_usage_percentage"}


def test_use_of_every_worker_is_in_mlflow_and_nowhere_in_the_study(viewed):
    # A driver that is killed takes with it what its last trials have measured, and the next one repeats them.
    children = child_runs(viewed.storage, "viewed", viewed.uri)
    measured = [run for run in children if int(run.info.run_name[1:]) >= viewed.begun]
    assert measured
    for run in measured:
        assert {key for key in run.data.metrics if key.startswith("system/")} >= {
            f"system/rank_{rank}/{name}" for rank in (0, 1) for name in NAMES
        }
        name = "system/rank_1/process_memory_usage_megabytes"
        points = viewed.client.get_metric_history(run.info.run_id, name)
        assert all(100 < point.value < 10_000 for point in points)
        # The last one is taken at the end of the job, a moment before or after the driver notes it.
        assert all(run.info.start_time <= point.timestamp <= run.info.end_time + 5000 for point in points)
        assert len(viewed.client.get_metric_history(run.info.run_id, "validation/utility")) == 2
    journal = (viewed.storage / "viewed" / "study.journal").read_text()
    assert "utilization" not in journal and "memory_usage" not in journal
