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
