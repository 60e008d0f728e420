"""Ranks that stay warm from test to test: a cold start costs ten seconds, most steps less than one."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.processes.launch import ROOT, free_ports

ANSWER_S = 300.0
"""Longest wait for the answer to one request."""


class RankGroup:
    """So many ranks of rank_script.py, started at the first request, and afresh after one that broke them.

    Args:
        workers: How many.
        folder: For requests, answers and what the ranks print.
    """

    def __init__(self, workers: int, folder: Path) -> None:
        self.workers, self.folder = workers, folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._starts = self._requests = 0

    def run(self, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Run steps on the warm ranks and return their results; what the ranks said is in the error if they
        broke."""
        if not self._processes:
            self._start()
        answer = self._place / f"answer{self._requests}.json"
        request = self._place / f"request{self._requests}.json"
        request.with_suffix(".partial").write_text(json.dumps(steps))
        request.with_suffix(".partial").replace(request)  # the ranks see all of it or nothing
        self._requests += 1
        deadline = time.monotonic() + ANSWER_S
        while not answer.exists():
            if time.monotonic() > deadline or any(process.poll() is not None for process in self._processes):
                said = "\n".join(path.read_text()[-3000:] for path in sorted(self._place.glob("rank*.txt")))
                self.end()
                raise AssertionError(f"the ranks broke or gave no answer:\n{said}")
            time.sleep(0.01)
        return json.loads(answer.read_text())

    def end(self) -> None:
        """Let the ranks go home; kill those that do not."""
        if self._processes:
            (self._place / "end").touch()
        for process in self._processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes = []

    @property
    def _place(self) -> Path:
        return self.folder / f"start{self._starts}"

    def _start(self) -> None:
        self._starts, self._requests = self._starts + 1, 0
        self._place.mkdir(parents=True)
        script = Path(__file__).with_name("rank_script.py")
        common = {
            "WORLD_SIZE": str(self.workers),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_ports(1)[0]),
        }
        common |= {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "PYTHONFAULTHANDLER": "1",
            "LETHE_TESTS_PID": str(os.getpid()),
        }
        for rank in range(self.workers):
            # What torchrun would do. Without it: three seconds less, and every rank can be ended by its
            # handle.
            environment = os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            with (self._place / f"rank{rank}.txt").open("w") as output:
                process = subprocess.Popen(
                    [sys.executable, str(script), str(self._place)],
                    env=environment,
                    stdout=output,
                    stderr=output,
                )
            self._processes.append(process)
