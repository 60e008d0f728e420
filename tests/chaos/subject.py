"""The sweep that faults are injected into: its file, its driver as a process, and the processes below it."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.chaos.cheap_runner import made_up
from tests.chaos.examination import Ended, Expect, Findings, ended_trials, examine
from tests.support.processes.launch import ROOT, lethe_environment
from tests.support.sweeps.small_sweeps import write_sweep

END_S = 900.0
"""Seconds within which a sweep that is left alone must have ended."""

WORKER = "ray::RayTrainWorker"


@dataclass
class Subject:
    """One sweep, started as often as it takes."""

    folder: Path
    """For its file, its storage and what its drivers print."""
    name: str
    cheap: bool
    """Whether its trials are made up."""
    changes: dict = field(default_factory=dict)
    """Settings that differ from the small sweep's."""
    environment: dict[str, str] = field(default_factory=dict)
    tracking_uri: str | None = None
    storage_path: Path | None = None
    before: dict = field(default_factory=dict)
    """All that had ended at any look."""
    starts: int = 0

    def __post_init__(self) -> None:
        self.write()

    def write(self) -> None:
        """Write its file, as the settings are now."""
        home = self.folder / self.name
        home.mkdir(parents=True, exist_ok=True)
        self.file = write_sweep(home, name=self.name, **self.changes)

    @property
    def storage(self) -> Path:
        """Folder of all sweeps."""
        return self.storage_path or self.folder / "storage"

    @property
    def uri(self) -> str:
        """Where MLflow's runs are."""
        return self.tracking_uri or f"sqlite:///{self.storage / 'mlflow.db'}"

    @property
    def output(self) -> str:
        """What all drivers printed so far."""
        return "".join(path.read_text() for path in sorted(self.file.parent.glob("driver*.txt")))

    @property
    def command(self) -> list[str]:
        """Starts the sweep, or goes on with it."""
        module = "tests.chaos.cheap_lethe" if self.cheap else "orchestrator.cli"
        uri = ["--tracking-uri", self.tracking_uri] if self.tracking_uri else []
        return [sys.executable, "-m", module, "run", str(self.file), *uri]

    @contextmanager
    def driver(self) -> Iterator[subprocess.Popen]:
        """A driver that runs; killed at the end of the block if it is still there."""
        self.starts += 1
        with (self.file.parent / f"driver{self.starts:03d}.txt").open("w") as lines:
            environment = lethe_environment(self.storage, **self.environment)
            process = subprocess.Popen(self.command, cwd=ROOT, env=environment, stdout=lines, stderr=lines)
            try:
                yield process
            finally:
                if process.poll() is None:
                    os.kill(process.pid, signal.SIGKILL)
                process.wait()

    def look(self) -> Ended:
        """Note what has ended up to now."""
        for trial, mark in ended_trials(self.storage, self.name).items():
            # The first mark counts: a trial that ends a second time has another.
            self.before.setdefault(trial, mark)
        return self.before

    def wait_for_more(self, process: subprocess.Popen, more: int, seconds: float = END_S) -> bool:
        """Wait until so many more trials have ended, or the driver has. Returns: whether the driver still
        runs."""
        enough, deadline = len(self.look()) + more, time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < deadline:
            if len(self.look()) >= enough:
                return True
            time.sleep(0.1)
        return False

    def finish(self) -> bool:
        """Let it run to its end. Returns: whether it got there by itself, in time."""
        self.look()
        with self.driver() as process:
            return self.ended_well(process)

    def ended_well(self, process: subprocess.Popen) -> bool:
        """Wait for a driver that nobody disturbs any more."""
        try:
            return process.wait(END_S) == 0
        except subprocess.TimeoutExpired:
            return False

    def examine(self) -> Findings:
        """Compare the ended sweep with everything seen before, and its stores with each other."""
        expect: Expect | None = made_up if self.cheap else None
        return examine(self.storage, self.name, self.before, self.uri, expect)


def workers_below(pid: int) -> list[psutil.Process]:
    """Ranks of all lanes below a driver's process."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if child.cmdline() and child.cmdline()[0].startswith(WORKER):
                found.append(child)
        except psutil.Error:
            continue  # it ended while we looked
    return found


def pause(dice: random.Random, least: float, most: float) -> None:
    """Wait for a random time in seconds."""
    time.sleep(dice.uniform(least, most))
