"""Ranks that stay warm from test to test, and ranks that run one request while they are cold."""

import json
import os
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tests.support.processes import rank_script
from tests.support.processes.forked_ranks import start_ranks

ANSWER_S = 300.0
"""Longest wait for the answer to one request."""


class RankGroup:
    """Ranks of rank_script.py, started at the first request, and again after a request that broke them.

    Args:
        workers: Number of ranks.
        folder: Folder for requests, answers and the output of the ranks.
    """

    def __init__(self, workers: int, folder: Path) -> None:
        self.workers, self.folder = workers, folder
        self._processes: list[ForkServerProcess] = []
        self._starts = self._requests = 0

    def run(self, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Run steps on the warm ranks, and return their results.

        Raises:
            AssertionError: The ranks ended or gave no answer in time; the message holds their output.
        """
        if not self._processes:
            self._start()
        answer = self._place / f"answer{self._requests}.json"
        request = self._place / f"request{self._requests}.json"
        # Renamed when it is complete, so that no rank reads half of it.
        request.with_suffix(".partial").write_text(json.dumps(steps))
        request.with_suffix(".partial").replace(request)
        self._requests += 1
        deadline = time.monotonic() + ANSWER_S
        while not answer.exists():
            if time.monotonic() > deadline or any(
                process.exitcode is not None for process in self._processes
            ):
                logs = sorted(self._place.glob("rank*.txt"))
                output = "\n".join(log.read_text()[-3000:] for log in logs)
                self.end()
                raise AssertionError(f"the ranks ended or gave no answer in time:\n{output}")
            time.sleep(0.01)
        return json.loads(answer.read_text())

    def end(self) -> None:
        """Let the ranks end, and kill those that do not."""
        if self._processes:
            (self._place / "end").touch()
        for process in self._processes:
            process.join(5)
            process.kill()
            process.join()
        self._processes = []

    @property
    def _place(self) -> Path:
        return self.folder / f"start{self._starts}"

    def _start(self) -> None:
        self._starts, self._requests = self._starts + 1, 0
        self._place.mkdir(parents=True)
        self._processes = start_ranks(
            self.workers, rank_script.serve, self._place, os.getpid(), folder=self._place
        )


def run_cold(workers: int, steps: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Run steps on ranks that have run nothing before, and return their results."""
    group = RankGroup(workers, folder / "cold")
    try:
        return group.run(steps)
    finally:
        group.end()
