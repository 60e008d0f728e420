import math

import pytest
from mlflow import MlflowClient

from orchestrator.storage.system_metrics_file import append_system_metrics
from orchestrator.storage.trial_records import TrialRecord
from orchestrator.tracking import system_metrics
from orchestrator.tracking.run_writer import RunWriter
from orchestrator.tracking.tracked_sweep import read_tracked_trials
from orchestrator.tracking.tracker import SweepInfo, Tracker, TrackingError
from tests.support.mlflow_store import new_store
from tests.support.sweeps.finished_sweep import sweep
from tests.support.sweeps.sweep_on_disk import measured

CPU = "system/rank_0/cpu_utilization_percentage"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = new_store(tmp_path_factory)
    return f"sqlite:///{folder}/mlflow.db", folder / "artifacts"


@pytest.fixture
def start(store, request):
    """Starts a driver of this test's sweep."""
    name = request.node.name

    def begin(uri=store[0]):
        tracker = Tracker(uri, "lethe", name, store[1], name)
        tracker.sync_parent(SweepInfo(sweep(name=name), "digest"))
        tracker.sync_trial(trial(), (), "npo", "none", 8.0)
        return tracker

    return begin


@pytest.fixture
def file(tmp_path):
    return tmp_path / "system_metrics.jsonl"


def trial():
    rungs = [measured(0.9, 0.9), measured(0.4, 0.6)]
    times = {"started_at": 1000.0, "duration_s": 4.0, "finished_at": 1004.0}
    return TrialRecord("t0000", 0, "finished", {"forget.method": "npo"}, rungs[-1], rungs, **times)


def samples(count, first=0):
    return [
        {"at": 1000.5 + number, "values": {CPU.removeprefix("system/"): 10.0 * number}}
        for number in range(first, first + count)
    ]


def history(store, request, key=CPU):
    client = MlflowClient(store[0])
    (run,) = client.search_runs(
        [client.get_experiment_by_name("lethe").experiment_id],
        f"tags.`lethe.sweep` = '{request.node.name}' and tags.`lethe.trial` = 't0000'",
    )
    return run, sorted(
        (metric.step, metric.timestamp, metric.value)
        for metric in client.get_metric_history(run.info.run_id, key)
    )


def test_samples_are_system_metrics_of_the_trial_with_their_own_times(start, file, store, request):
    append_system_metrics(file, samples(3))
    start().sync_samples("t0000", file)
    run, points = history(store, request)
    assert points == [(0, 1_000_500, 0.0), (1, 1_001_500, 10.0), (2, 1_002_500, 20.0)]
    assert (run.info.status, run.data.tags["lethe.worker_samples"]) == ("FINISHED", "3")


def test_each_sample_is_sent_once_also_by_another_driver(start, file, store, request, monkeypatch):
    append_system_metrics(file, samples(2))
    first = start()
    first.sync_samples("t0000", file)
    append_system_metrics(file, samples(2, first=2))
    sent = []
    original = MlflowClient.log_batch

    def log_batch(self, run_id, metrics=(), **more):
        sent.extend(metric.step for metric in metrics if metric.key == CPU)
        return original(self, run_id, metrics=metrics, **more)

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    first.sync_samples("t0000", file)
    start().sync_samples("t0000", file)
    assert sent == [2, 3]
    assert [step for step, _, _ in history(store, request)[1]] == [0, 1, 2, 3]


def test_samples_wait_in_their_file_while_mlflow_is_away(start, file, store, request, monkeypatch):
    tracker = start()
    append_system_metrics(file, samples(2))

    def refuse(*arguments, **more):
        raise OSError("the server is away")

    with monkeypatch.context() as away:
        away.setattr(MlflowClient, "log_batch", refuse)
        with pytest.raises(TrackingError, match="away"):
            tracker.sync_samples("t0000", file)
    append_system_metrics(file, samples(1, first=2))
    tracker.sync_samples("t0000", file)
    assert len(history(store, request)[1]) == 3


def test_samples_that_were_sent_before_their_count_are_kept_once(start, file, store, request, monkeypatch):
    append_system_metrics(file, samples(2))
    killed = start()
    with monkeypatch.context() as kill:
        kill.setattr(
            RunWriter, "add", lambda *arguments, **more: (_ for _ in ()).throw(OSError("killed here"))
        )
        with pytest.raises(TrackingError):
            killed.sync_samples("t0000", file)
    start().sync_samples("t0000", file)
    assert len(history(store, request)[1]) == 2


def test_many_samples_go_in_batches_that_mlflow_takes(start, file, store, request, monkeypatch):
    monkeypatch.setattr(system_metrics, "METRICS_PER_BATCH", 4)
    append_system_metrics(file, samples(11))
    start().sync_samples("t0000", file)
    run, points = history(store, request)
    assert (len(points), run.data.tags["lethe.worker_samples"]) == (11, "11")


def test_trial_without_samples_gets_none(start, file, store, request):
    start().sync_samples("t0000", file)
    run, _ = history(store, request)
    assert (
        not any(key.startswith("system/") for key in run.data.metrics)
        and "lethe.worker_samples" not in run.data.tags
    )


def test_samples_are_no_rungs_of_a_trial_that_is_read_back(start, file, request):
    append_system_metrics(file, samples(20))
    start().sync_samples("t0000", file)
    (found,) = read_tracked_trials(start().uri, "lethe", request.node.name)
    assert len(found.rungs) == 2
    assert not any(key.startswith("system/") for rung in found.rungs for key in rung)
    assert all(math.isfinite(value) for value in found.metrics.values())
