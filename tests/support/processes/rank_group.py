"""Ranks that stay warm from test to test: a cold start takes ten seconds, most steps less than one."""

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
    """Ranks of rank_script.py, started at the first request, and again after a request that broke them.

    Args:
        workers: Number of ranks.
        folder: Folder for requests, answers and the output of the ranks.
    """

    def __init__(self, workers: int, folder: Path) -> None:
        self.workers, self.folder = workers, folder
        self._processes: list[subprocess.Popen[bytes]] = []
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
            if time.monotonic() > deadline or any(process.poll() is not None for process in self._processes):
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
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "PYTHONFAULTHANDLER": "1",
            "LETHE_TESTS_PID": str(os.getpid()),
        }
        for rank in range(self.workers):
            # As torchrun does. Without it the start is three seconds faster, and each rank has a handle.
            environment = os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            with (self._place / f"rank{rank}.txt").open("w") as output:
                command = [sys.executable, str(script), str(self._place)]
                process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            self._processes.append(process)
