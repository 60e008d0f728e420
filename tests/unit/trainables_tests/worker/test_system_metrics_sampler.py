import asyncio
import threading
from types import SimpleNamespace

import pytest
import torch

from orchestrator.lanes.job_queue import JobQueue
from search_spaces.settings.sweep_settings import TrackingSettings
from trainables.worker import system_metrics_sampler
from trainables.worker.lane_worker import send_system_metrics
from trainables.worker.system_metrics_sampler import (
    SHORTEST_S,
    read_sensors,
    sample_system_metrics,
    worker_sensors,
)

GIGABYTE = 1e9


def samples_of(every_s, prefix, work):
    """Returns the messages that are sent while `work` runs, with the sample at its end."""
    messages, arrived = [], threading.Event()

    def send(samples):
        messages.append(samples)
        arrived.set()

    with sample_system_metrics(every_s, prefix, send):
        work(arrived)
    assert not every_s or arrived.wait(10)
    return messages


def test_process_is_measured_under_the_names_of_mlflow():
    values = read_sensors(worker_sensors(None))
    assert set(values) == {
        "cpu_utilization_percentage",
        "process_memory_usage_megabytes",
        "system_memory_usage_percentage",
    }
    assert values["process_memory_usage_megabytes"] > 10
    assert 0 < values["system_memory_usage_percentage"] < 100


def test_work_shorter_than_the_interval_is_measured_once_at_its_end():
    ((sample,),) = samples_of(60.0, "rank_1/", lambda arrived: None)
    assert {name.partition("/")[0] for name in sample["values"]} == {"rank_1"}
    assert sample["at"] > 1.6e9


def test_samples_are_sent_during_the_work_with_their_times(monkeypatch):
    monkeypatch.setattr(system_metrics_sampler, "SEND_EVERY_S", 0.0)
    messages = samples_of(0.01, "", lambda arrived: arrived.wait(10))
    times = [sample["at"] for samples in messages for sample in samples]
    assert times == sorted(times) and "cpu_utilization_percentage" in messages[0][0]["values"]


def test_nothing_is_measured_with_an_interval_of_0():
    assert samples_of(0.0, "", lambda arrived: None) == []
    assert "samples" not in {
        thread.name for thread in threading.enumerate() if thread.is_alive() and not thread.daemon
    }


def test_work_that_fails_is_measured_and_its_error_is_raised():
    sent = threading.Event()
    with (
        pytest.raises(ValueError, match="its own"),
        sample_system_metrics(60.0, "", lambda samples: sent.set()),
    ):
        raise ValueError("its own")
    assert sent.wait(10)


def test_gpu_is_measured_by_the_index_the_worker_trains_on(monkeypatch):
    devices = []

    def answer(value):
        return lambda device: devices.append(device) or value

    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80 * GIGABYTE)
    )
    monkeypatch.setattr(torch.cuda, "device_memory_used", answer(20 * GIGABYTE))
    monkeypatch.setattr(torch.cuda, "utilization", answer(97))
    monkeypatch.setattr(torch.cuda, "power_draw", answer(350_000))
    values = read_sensors(worker_sensors(3))
    assert {name: value for name, value in values.items() if name.startswith("gpu")} == {
        "gpu_0_memory_usage_megabytes": 20_000,
        "gpu_0_memory_usage_percentage": 25,
        "gpu_0_utilization_percentage": 97,
        "gpu_0_power_usage_watts": 350,
    }
    assert set(devices) == {3}


def test_sensor_that_does_not_work_here_is_left_out_from_then_on():
    calls = []

    def broken():
        calls.append(1)
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    sensors = {"gpu_0_utilization_percentage": broken, "cpu_utilization_percentage": lambda: 50}
    assert [read_sensors(sensors) for _ in range(2)] == [{"cpu_utilization_percentage": 50}] * 2
    assert calls == [1]


def test_measuring_draws_no_random_numbers():
    before = torch.get_rng_state()
    samples_of(60.0, "", lambda arrived: None)
    assert torch.equal(torch.get_rng_state(), before)


def test_interval_is_0_or_long_enough_for_a_cpu_utilization():
    assert TrackingSettings().system_metrics_s == 0
    assert TrackingSettings(system_metrics_s=SHORTEST_S).system_metrics_s == SHORTEST_S
    with pytest.raises(ValueError, match=r"at least 0\.1"):
        TrackingSettings(system_metrics_s=0.01)


def test_system_metrics_reach_the_job_queue_under_their_job():
    samples = [{"at": 1.0, "values": {}}]
    with asyncio.Runner() as runner:
        queue = JobQueue()
        add = SimpleNamespace(remote=lambda *what: runner.run(queue.add_system_metrics(*what)))
        send_system_metrics(SimpleNamespace(add_system_metrics=add), "t0003", samples)
        assert runner.run(queue.take_system_metrics()) == {"t0003": samples}
