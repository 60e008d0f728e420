"""A real mailbox in this process, as callers see it through Ray's actor handle."""

import asyncio
from contextlib import contextmanager
from types import SimpleNamespace

from orchestrator.lanes import job_queue
from orchestrator.lanes.job_queue import JobQueue


class Handle:
    """Calls of `remote` give what `get` waits for."""

    def __init__(self, box):
        self._box = box

    def __getattr__(self, name):
        return SimpleNamespace(remote=getattr(self._box, name))


@contextmanager
def local_mailbox(monkeypatch, module):
    """Lets `module` do without Ray: its `ray.get` runs a call of the mailbox to its end. Gives: the mailbox
    with a lane, and `get`."""
    monkeypatch.setattr(job_queue, "POLL_S", 0.01)
    with asyncio.Runner() as runner:
        monkeypatch.setattr(module, "ray", SimpleNamespace(get=runner.run))
        box = JobQueue()
        runner.run(box.lane_ready("lane0", "first"))
        yield box, runner.run


async def follow(box, name, seen=0):
    """Events of one job after the first `seen`, its latest progress and its outcome."""
    news = (await box.news({name: seen})).get(name)
    return ([], None, None) if news is None else (news.events, news.progress, news.outcome)


def outcome_of(pool, name):
    """Waits for the outcome of a job on a real pool. Returns: it, and the events on the way."""
    events, outcome = [], None
    while outcome is None:
        news = pool.news({name: len(events)}).get(name)
        if news is not None:
            events, outcome = events + list(news.events), news.outcome
    return outcome, events
