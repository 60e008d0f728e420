import asyncio
import threading
from concurrent.futures import Future
from types import SimpleNamespace

from orchestrator.lanes import job_queue, system_metrics_collector
from orchestrator.lanes.job_queue import MOST_SAMPLES, JobQueue
from orchestrator.lanes.system_metrics_collector import collect_system_metrics, keep_system_metrics
from orchestrator.storage.sweep_folder import SweepFolder
from orchestrator.storage.system_metrics_file import read_samples
from tests.support.local_job_queue import Handle, follow
from trainables.events import Finished


def sample(value):
    return {"at": 1000.0 + value, "values": {"rank_0/cpu_utilization_percentage": value}}


def kept(folder, name):
    return [
        found.values["rank_0/cpu_utilization_percentage"]
        for found in read_samples(folder.trial_system_metrics(name), 0)
    ]


async def running(box, *names):
    await box.lane_ready("lane0", "first", [("node0", "worker0")])
    for name in names:
        await box.submit(name, {})
    await box.next_job("lane0", "first", 0)


def test_mailbox_hands_samples_out_once():
    async def steps(box):
        await running(box, "t0000")
        await box.add_system_metrics("t0000", [sample(1), sample(2)])
        return await box.take_system_metrics(), await box.take_system_metrics()

    assert asyncio.run(steps(JobQueue())) == ({"t0000": [sample(1), sample(2)]}, {})


def test_mailbox_keeps_the_newest_samples_of_a_job():
    async def steps(box):
        await running(box, "t0000")
        for value in range(MOST_SAMPLES + 5):
            await box.add_system_metrics("t0000", [sample(value)])
        return await box.take_system_metrics()

    values = asyncio.run(steps(JobQueue()))["t0000"]
    assert len(values) == MOST_SAMPLES and values[-1] == sample(MOST_SAMPLES + 4)


def test_samples_are_no_sign_of_life_of_a_job_and_wake_nobody(monkeypatch):
    monkeypatch.setattr(job_queue, "POLL_S", 30.0)

    async def steps(box):
        await running(box, "t0000")
        follower = asyncio.create_task(follow(box, "t0000", 0))
        await asyncio.sleep(0.05)
        await box.add_system_metrics("t0000", [sample(1)])
        await asyncio.sleep(0.01)
        asleep = not follower.done()
        follower.cancel()
        return asleep, await box.hung(0.05)

    assert asyncio.run(steps(JobQueue())) == (True, [("node0", "worker0")])


def test_samples_are_neither_events_nor_progress_and_survive_the_end_of_a_job():
    async def steps(box):
        await running(box, "t0000")
        await box.finish("t0000", Finished())
        await box.add_system_metrics("t0000", [sample(1)])  # a worker sends its last one a little later
        return await follow(box, "t0000", 0), await box.take_system_metrics()

    assert asyncio.run(steps(JobQueue())) == (([], None, Finished()), {"t0000": [sample(1)]})


def test_samples_of_trials_are_kept_and_others_dropped(tmp_path):
    folder = SweepFolder(tmp_path, "sweep")
    samples = {
        "t0003": [sample(1)],
        "t12345": [sample(2)],
        "measuring the original model": [sample(3)],
        "t0003 seed 7": [sample(4)],
    }
    assert keep_system_metrics(folder, samples) == {3, 12345}
    assert keep_system_metrics(folder, {"t0003": [sample(5)]}) == {3}
    assert (kept(folder, "t0003"), kept(folder, "t12345")) == ([1, 5], [2])
    assert len(list(tmp_path.rglob("*.jsonl"))) == 2


def test_samples_without_room_on_the_disk_are_lost_and_nothing_else(tmp_path, caplog):
    folder = SweepFolder(tmp_path, "sweep")
    folder.path.mkdir()
    folder.path.joinpath("trials").write_text("in the way")
    assert keep_system_metrics(folder, {"t0003": [sample(1)]}) == set()
    assert "system metrics of t0003 are lost" in caplog.text


def collect(monkeypatch, tmp_path, on_change, work):
    """Runs `work(box, get)` while samples are collected as often as possible."""
    folder = SweepFolder(tmp_path, "sweep")
    lock = threading.Lock()
    with asyncio.Runner() as runner:

        def get(call):
            with lock:  # one event loop, as an actor has
                return asyncio.run_coroutine_threadsafe(call, runner.get_loop()).result(10)

        loop = threading.Thread(target=lambda: runner.get_loop().run_forever())
        loop.start()
        monkeypatch.setattr(system_metrics_collector, "ray", SimpleNamespace(get=get))
        monkeypatch.setattr(system_metrics_collector, "COLLECT_EVERY_S", 0.01)
        box = JobQueue()
        try:
            with collect_system_metrics(Handle(box), folder, on_change):
                work(box, get)
        finally:
            runner.get_loop().call_soon_threadsafe(runner.get_loop().stop)
            loop.join()
    return folder


def test_samples_are_collected_meanwhile_and_at_the_end(monkeypatch, tmp_path):
    told, arrived = [], threading.Event()

    def on_change(numbers):
        told.append(numbers)
        arrived.set()
        done = Future()
        done.set_result(None)
        return done

    def work(box, get):
        get(box.add_system_metrics("t0001", [sample(1)]))
        assert arrived.wait(10)
        monkeypatch.setattr(system_metrics_collector, "COLLECT_EVERY_S", 10.0)
        get(box.add_system_metrics("t0001", [sample(2)]))

    folder = collect(monkeypatch, tmp_path, on_change, work)
    assert kept(folder, "t0001") == [1, 2]
    assert told[0] == {1}


def test_slow_mlflow_is_told_of_all_trials_at_once_when_it_has_time_again(monkeypatch, tmp_path):
    told, sending, first, second = [], Future(), threading.Event(), threading.Event()

    def on_change(numbers):
        told.append(numbers)
        (second if first.is_set() else first).set()
        return sending

    def work(box, get):
        get(box.add_system_metrics("t0001", [sample(1)]))
        assert first.wait(10)
        for name in ("t0002", "t0003"):
            get(box.add_system_metrics(name, [sample(1)]))
            while not kept(SweepFolder(tmp_path, "sweep"), name):
                pass
        assert told == [{1}]
        sending.set_result(None)
        assert second.wait(10)

    collect(monkeypatch, tmp_path, on_change, work)
    assert told == [{1}, {2, 3}]
