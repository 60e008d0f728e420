"""Faults of a sweep's own processes, each injected a given number of times at random moments."""

import random
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.chaos.examination import Findings, records_of
from tests.chaos.subject import Subject, pause, workers_below
from tests.support.sweeps.small_sweeps import SWEEP


@dataclass
class Tally:
    """The effects of one kind of fault: a row of the table."""

    fault: str
    injected: int = 0
    """Number of faults."""
    sweeps: int = 0
    """Number of sweeps that they struck."""
    trials: int = 0
    """Number of trials of these sweeps."""
    findings: Findings = field(default_factory=Findings)
    not_ended: list[str] = field(default_factory=list)
    """Sweeps that did not end by themselves."""
    unreported: list[str] = field(default_factory=list)
    """Sweeps whose drivers did not print a line about the faults."""

    def close(self, subject: Subject, *, ended: bool, reported: str, times: int = 1) -> None:
        """Adds a sweep after its last fault.

        Args:
            subject: The sweep.
            ended: Whether it ended by itself.
            reported: Text that its drivers must have printed.
            times: The least number of times that they must have printed it.
        """
        self.sweeps += 1
        if not ended:
            self.not_ended.append(f"{subject.name}: {subject.output[-2000:]}")
            return
        found = subject.examine()
        self.findings.lost += found.lost
        self.findings.repeated += found.repeated
        self.findings.disagreeing += found.disagreeing
        records = records_of(subject.storage, subject.name)
        self.trials += len(records)
        if subject.output.count(reported) < times:
            self.unreported.append(f"{subject.name}: {reported!r} is not in {subject.output[-2000:]}")


@dataclass(frozen=True)
class Scene:
    """The settings of all sweeps into which faults are injected."""

    folder: Path
    """Folder for the sweeps' files."""
    cheap: bool
    """Whether trials are made up."""
    dice: random.Random
    """Random numbers for the moments at which faults strike."""
    trials: int
    """Trials of one sweep; sweeps that are struck at long intervals have three times as many."""
    lanes: int

    def sweep(self, fault: str, number: int, trials: int, **resources: float) -> Subject:
        """Returns a new sweep. Sweeps share their prepared models."""
        space = {
            "forget.method": {"choice": ["graddiff", "npo", "wga"]},
            "beliefs": {"choice": ["none", "token", "sequence"]},
            "optimizer.learning_rate": {"log_uniform": [1.0e-4, 1.0e-2]},
        }
        changes = {
            "space": space,
            "search": {"trials": trials, "sampler": "random", "seed": number},
            "trial": {**SWEEP["trial"], "steps": 4, "rungs": 4 if self.cheap else 2},
            "early_stopping": {"reduction": 2.0},
            "resources": {
                "workers_per_trial": 2,
                "cpus_per_worker": 0.5,
                "max_lanes": self.lanes,
                "attempts": 50,
                **resources,
            },
        }
        return Subject(self.folder, f"{fault}{number}", self.cheap, changes)


def strike_while_it_runs(
    scene: Scene,
    fault: str,
    injections: int,
    reported: str,
    strike: Callable[[list[psutil.Process]], int],
    **resources: float,
) -> Tally:
    """Strikes the ranks of running sweeps, with at least one trial's end between two faults."""
    tally = Tally(fault)
    while tally.injected < injections:
        subject = scene.sweep(fault, tally.sweeps, scene.trials, **resources)
        struck = 0
        with subject.driver() as process:
            while tally.injected < injections and subject.wait_for_more(process, more=1):
                pause(scene.dice, 0, 1.0)
                done = strike(workers_below(process.pid)) if process.poll() is None else 0
                struck, tally.injected = struck + done, tally.injected + done
            ended = subject.ended_well(process)
        # A fault in a lane that runs no trial, between two trials or during a restart, is not reported.
        tally.close(subject, ended=ended, reported=reported, times=struck // 2)
    return tally


def worker_killed(scene: Scene, injections: int) -> Tally:
    """Sends SIGKILL to a rank, as the kernel does when memory runs out."""

    def strike(ranks: list[psutil.Process]) -> int:
        if ranks:
            scene.dice.choice(ranks).kill()
        return len(ranks[:1])

    reported = "its workers died; it starts again"
    return strike_while_it_runs(scene, "worker-killed", injections, reported, strike)


def worker_hangs(scene: Scene, injections: int) -> Tally:
    """Sends SIGSTOP to a rank, which then exists but does nothing."""

    def strike(ranks: list[psutil.Process]) -> int:
        if ranks:
            scene.dice.choice(ranks).suspend()
        return len(ranks[:1])

    quiet_s = 4.0 if scene.cheap else 20.0
    return strike_while_it_runs(
        scene, "worker-hangs", injections, "its workers hung", strike, quiet_timeout_s=quiet_s
    )


def trial_diverges(scene: Scene, injections: int) -> Tally:
    """Adds trials whose loss becomes NaN to a sweep: these must fail, and no other."""
    tally = Tally("trial-diverges")
    while tally.injected < injections:
        count = min(injections - tally.injected, scene.trials // 2)
        subject = scene.sweep("trial-diverges", tally.sweeps, scene.trials)
        points = [
            {"forget.method": "graddiff", "beliefs": "none", "optimizer.learning_rate": 1.0e6 * (1 + n)}
            for n in range(count)
        ]
        subject.changes["space"]["optimizer.learning_rate"] = {"log_uniform": [1.0e-4, 1.0e9]}
        subject.changes["search"]["enqueue"] = points
        subject.write()
        ended = subject.finish()
        tally.injected += count
        tally.close(subject, ended=ended, reported="lower optimizer.learning_rate", times=count)
    return tally


def driver_killed(scene: Scene, injections: int) -> Tally:
    """Sends SIGKILL to the driver at any moment, every fourth time in its first second."""
    return strike_the_driver(scene, "driver-killed", injections, signal.SIGKILL)


def driver_terminated(scene: Scene, injections: int) -> Tally:
    """Sends SIGTERM to the driver, as SLURM and Kubernetes do."""
    return strike_the_driver(scene, "driver-terminated", injections, signal.SIGTERM)


def strike_the_driver(scene: Scene, fault: str, injections: int, end: signal.Signals) -> Tally:
    """Ends drivers by a signal, starts them again, and lets the last one finish."""
    tally = Tally(fault)
    longest = 25.0 if scene.cheap else 50.0
    while tally.injected < injections:
        subject = scene.sweep(fault, tally.sweeps, 3 * scene.trials)
        finished = False
        while tally.injected < injections and not finished:
            life_s = scene.dice.uniform(0, longest if tally.injected % 4 else 1.0)
            with subject.driver() as process:
                try:
                    process.wait(life_s)
                    finished = True
                except subprocess.TimeoutExpired:
                    subject.look()
                    process.send_signal(end)
                    process.wait(30)
                    tally.injected += 1
        tally.close(subject, ended=subject.finish(), reported="resuming")
    return tally


def anything(scene: Scene, injections: int) -> Tally:
    """Kills and suspends ranks, and kills and terminates drivers, in the same sweeps."""
    tally = Tally("anything")
    quiet_s = 4.0 if scene.cheap else 20.0
    while tally.injected < injections:
        subject = scene.sweep("anything", tally.sweeps, scene.trials, quiet_timeout_s=quiet_s)
        finished = False
        while tally.injected < injections and not finished:
            with subject.driver() as process:
                finished = not _strike_one_start(scene, subject, process, tally, injections)
                if finished:
                    finished = subject.ended_well(process)
        # The first fault is a killed rank, after which no driver has resumed the sweep.
        reported = "again" if tally.injected == 1 else "resuming"
        tally.close(subject, ended=finished or subject.finish(), reported=reported)
    return tally


def _strike_one_start(
    scene: Scene, subject: Subject, process: subprocess.Popen, tally: Tally, injections: int
) -> bool:
    """Strikes until the driver ends or all faults are injected. Returns: whether a fault ended the driver."""
    while tally.injected < injections and subject.wait_for_more(process, more=1):
        pause(scene.dice, 0, 1.0)
        kind = tally.injected % 4
        if kind < 2:
            ranks = workers_below(process.pid) if process.poll() is None else []
            if ranks:
                victim = scene.dice.choice(ranks)
                (victim.suspend if kind else victim.kill)()
                tally.injected += 1
            continue
        subject.look()
        process.send_signal(signal.SIGKILL if kind == 2 else signal.SIGTERM)
        process.wait(30)
        tally.injected += 1
        return True
    return False
