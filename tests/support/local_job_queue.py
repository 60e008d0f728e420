"""A real job queue in this process, called as through Ray's actor handle."""

import asyncio
from contextlib import contextmanager
from types import SimpleNamespace

from orchestrator.lanes import job_queue
from orchestrator.lanes.job_queue import JobQueue


class Handle:
    """An actor handle of a job queue in this process: `remote` returns the call for `get` to run."""

    def __init__(self, queue):
        self._queue = queue

    def __getattr__(self, name):
        return SimpleNamespace(remote=getattr(self._queue, name))


@contextmanager
def local_job_queue(monkeypatch, module):
    """Replaces Ray in `module`: its `ray.get` runs a call of the queue to its end.

    Yields:
        The queue, with `lane0` up under the generation `first`; and `get`.
    """
    monkeypatch.setattr(job_queue, "POLL_S", 0.01)
    with asyncio.Runner() as runner:
        monkeypatch.setattr(module, "ray", SimpleNamespace(get=runner.run))
        queue = JobQueue()
        runner.run(queue.lane_ready("lane0", "first"))
        yield queue, runner.run


async def follow(queue, name, seen=0):
    """Returns a job's events after the first `seen`, its latest progress and its outcome."""
    news = (await queue.news({name: seen})).get(name)
    return ([], None, None) if news is None else (news.events, news.progress, news.outcome)


def wait_for_outcome(pool, name):
    """Waits until a job on a real lane pool has ended, and returns its outcome and all its events."""
    events, outcome = [], None
    while outcome is None:
        news = pool.news({name: len(events)}).get(name)
        if news is not None:
            events += news.events
            outcome = news.outcome
    return outcome, events
