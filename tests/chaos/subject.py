"""A sweep into which faults are injected: its file, its driver as a process, and the driver's children."""

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
"""Seconds within which a sweep must end after the last fault."""

WORKER = "ray::RayTrainWorker"
"""Title of the processes of ranks."""


@dataclass
class Subject:
    """One sweep, which may be started several times."""

    folder: Path
    """Folder for its file, its storage and its drivers' output."""
    name: str
    cheap: bool
    """Whether its trials are made up."""
    changes: dict = field(default_factory=dict)
    """Settings that differ from the small sweep's."""
    environment: dict[str, str] = field(default_factory=dict)
    """Further environment variables of its drivers."""
    tracking_uri: str | None = None
    """MLflow's server; None for the default store."""
    storage_path: Path | None = None
    """Folder of all sweeps; None for one in `folder`."""
    before: dict = field(default_factory=dict)
    """Trials that had ended at a call of `look`: see `examination.Ended`."""
    starts: int = 0
    """Number of drivers so far."""

    def __post_init__(self) -> None:
        self.write()

    def write(self) -> None:
        """Writes the sweep file with the present settings."""
        home = self.folder / self.name
        home.mkdir(parents=True, exist_ok=True)
        self.file = write_sweep(home, name=self.name, **self.changes)

    @property
    def storage(self) -> Path:
        """Folder of all sweeps."""
        return self.storage_path or self.folder / "storage"

    @property
    def uri(self) -> str:
        """MLflow's server or store."""
        return self.tracking_uri or f"sqlite:///{self.storage / 'mlflow.db'}"

    @property
    def output(self) -> str:
        """The output of all drivers so far."""
        return "".join(path.read_text() for path in sorted(self.file.parent.glob("driver*.txt")))

    @property
    def command(self) -> list[str]:
        """The command that starts or resumes the sweep."""
        module = "tests.chaos.cheap_lethe" if self.cheap else "orchestrator.cli"
        uri = ["--tracking-uri", self.tracking_uri] if self.tracking_uri else []
        return [sys.executable, "-m", module, "run", str(self.file), *uri]

    @contextmanager
    def driver(self) -> Iterator[subprocess.Popen]:
        """Starts a driver; kills it at the end of the block if it still runs."""
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
        """Notes the trials that have ended so far, and returns them."""
        for trial, mark in ended_trials(self.storage, self.name).items():
            # The first mark is kept: a trial that ended a second time has another one, which is a finding.
            self.before.setdefault(trial, mark)
        return self.before

    def wait_for_more(self, process: subprocess.Popen, more: int, seconds: float = END_S) -> bool:
        """Waits until `more` further trials have ended, or the driver has ended.

        Returns:
            Whether the trials have ended in time, while the driver runs.
        """
        enough, deadline = len(self.look()) + more, time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < deadline:
            if len(self.look()) >= enough:
                return True
            time.sleep(0.1)
        return False

    def finish(self) -> bool:
        """Runs the sweep to its end. Returns: whether it ended by itself, in time."""
        self.look()
        with self.driver() as process:
            return self.ended_well(process)

    def ended_well(self, process: subprocess.Popen) -> bool:
        """Waits for the driver after the last fault. Returns: whether it succeeded in time."""
        try:
            return process.wait(END_S) == 0
        except subprocess.TimeoutExpired:
            return False

    def examine(self) -> Findings:
        """Compares the ended sweep with all that was noted before, and its stores with each other."""
        expect: Expect | None = made_up if self.cheap else None
        return examine(self.storage, self.name, self.before, self.uri, expect)


def workers_below(pid: int) -> list[psutil.Process]:
    """Returns the ranks of all lanes: processes below that of a driver."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if child.cmdline() and child.cmdline()[0].startswith(WORKER):
                found.append(child)
        except psutil.Error:
            # The process ended meanwhile.
            continue
    return found


def pause(dice: random.Random, least: float, most: float) -> None:
    """Waits for a random time between `least` and `most` seconds."""
    time.sleep(dice.uniform(least, most))
