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


def written(folder, name):
    """Returns the values in the file of a trial."""
    return [
        found.values["rank_0/cpu_utilization_percentage"]
        for found in read_samples(folder.trial_system_metrics(name), 0)
    ]


async def start_jobs(queue, *names):
    """Submits jobs to a queue with one lane, which runs the first of them."""
    await queue.lane_ready("lane0", "first", [("node0", "worker0")])
    for name in names:
        await queue.submit(name, {})
    await queue.next_job("lane0", "first", 0)


def test_queue_returns_samples_once():
    async def steps(queue):
        await start_jobs(queue, "t0000")
        await queue.add_system_metrics("t0000", [sample(1), sample(2)])
        return await queue.take_system_metrics(), await queue.take_system_metrics()

    assert asyncio.run(steps(JobQueue())) == ({"t0000": [sample(1), sample(2)]}, {})


def test_queue_keeps_the_newest_samples_of_a_job():
    async def steps(queue):
        await start_jobs(queue, "t0000")
        for value in range(MOST_SAMPLES + 5):
            await queue.add_system_metrics("t0000", [sample(value)])
        return await queue.take_system_metrics()

    values = asyncio.run(steps(JobQueue()))["t0000"]
    assert len(values) == MOST_SAMPLES and values[-1] == sample(MOST_SAMPLES + 4)


def test_samples_are_no_sign_of_life_of_a_job_and_wake_no_caller(monkeypatch):
    monkeypatch.setattr(job_queue, "POLL_S", 30.0)

    async def steps(queue):
        await start_jobs(queue, "t0000")
        follower = asyncio.create_task(follow(queue, "t0000", 0))
        await asyncio.sleep(0.05)
        await queue.add_system_metrics("t0000", [sample(1)])
        await asyncio.sleep(0.01)
        asleep = not follower.done()
        follower.cancel()
        return asleep, await queue.hung(0.05)

    assert asyncio.run(steps(JobQueue())) == (True, [("node0", "worker0")])


def test_samples_are_neither_events_nor_progress_and_survive_the_end_of_a_job():
    async def steps(queue):
        await start_jobs(queue, "t0000")
        await queue.finish("t0000", Finished())
        # A worker sends its last samples a little later.
        await queue.add_system_metrics("t0000", [sample(1)])
        return await follow(queue, "t0000", 0), await queue.take_system_metrics()

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
    assert (written(folder, "t0003"), written(folder, "t12345")) == ([1, 5], [2])
    assert len(list(tmp_path.rglob("*.jsonl"))) == 2


def test_samples_without_room_on_the_disk_are_lost_and_nothing_else(tmp_path, caplog):
    folder = SweepFolder(tmp_path, "sweep")
    folder.path.mkdir()
    folder.path.joinpath("trials").write_text("a file where a folder is needed")
    assert keep_system_metrics(folder, {"t0003": [sample(1)]}) == set()
    assert "system metrics of t0003 are lost" in caplog.text


def collect(monkeypatch, tmp_path, on_change, work):
    """Runs `work(queue, get)` while samples are collected as often as possible."""
    folder = SweepFolder(tmp_path, "sweep")
    lock = threading.Lock()
    with asyncio.Runner() as runner:

        def get(call):
            # One event loop runs all calls, as in an actor.
            with lock:
                return asyncio.run_coroutine_threadsafe(call, runner.get_loop()).result(10)

        loop = threading.Thread(target=lambda: runner.get_loop().run_forever())
        loop.start()
        monkeypatch.setattr(system_metrics_collector, "ray", SimpleNamespace(get=get))
        monkeypatch.setattr(system_metrics_collector, "COLLECT_EVERY_S", 0.01)
        queue = JobQueue()
        try:
            with collect_system_metrics(Handle(queue), folder, on_change):
                work(queue, get)
        finally:
            runner.get_loop().call_soon_threadsafe(runner.get_loop().stop)
            loop.join()
    return folder


def test_samples_are_collected_during_the_block_and_at_its_end(monkeypatch, tmp_path):
    sent_trials, arrived = [], threading.Event()

    def on_change(numbers):
        sent_trials.append(numbers)
        arrived.set()
        done = Future()
        done.set_result(None)
        return done

    def work(queue, get):
        get(queue.add_system_metrics("t0001", [sample(1)]))
        assert arrived.wait(10)
        monkeypatch.setattr(system_metrics_collector, "COLLECT_EVERY_S", 10.0)
        get(queue.add_system_metrics("t0001", [sample(2)]))

    folder = collect(monkeypatch, tmp_path, on_change, work)
    assert written(folder, "t0001") == [1, 2]
    assert sent_trials[0] == {1}


def test_trials_that_change_while_mlflow_is_slow_are_sent_together_afterwards(monkeypatch, tmp_path):
    sent_trials, sending, first, second = [], Future(), threading.Event(), threading.Event()

    def on_change(numbers):
        sent_trials.append(numbers)
        (second if first.is_set() else first).set()
        return sending

    def work(queue, get):
        get(queue.add_system_metrics("t0001", [sample(1)]))
        assert first.wait(10)
        for name in ("t0002", "t0003"):
            get(queue.add_system_metrics(name, [sample(1)]))
            while not written(SweepFolder(tmp_path, "sweep"), name):
                pass
        assert sent_trials == [{1}]
        sending.set_result(None)
        assert second.wait(10)

    collect(monkeypatch, tmp_path, on_change, work)
    assert sent_trials == [{1}, {2, 3}]
