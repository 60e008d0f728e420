"""The faults: each strikes a sweep at random moments, as often as asked, and says how it went."""

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
    """One line of the table."""

    fault: str
    injected: int = 0
    sweeps: int = 0
    trials: int = 0
    findings: Findings = field(default_factory=Findings)
    not_ended: list[str] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)
    """Faults of which neither the screen nor the trial's log says a word."""

    def close(self, subject: Subject, *, ended: bool, told: str, times: int | None = None) -> None:
        """Take in a sweep that nobody disturbs any more.

        Args:
            subject: The sweep.
            ended: Whether it ended by itself.
            told: What its drivers must have printed.
            times: How often, at least; once for a sweep that was struck at all when left out.
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
        if subject.output.count(told) < (1 if times is None else times):
            self.untold.append(f"{subject.name}: {told!r} is not in {subject.output[-2000:]}")


@dataclass(frozen=True)
class Scene:
    """Where faults strike."""

    folder: Path
    cheap: bool
    dice: random.Random
    trials: int
    """Of one sweep; sweeps that are struck at long intervals have three times as many."""
    lanes: int

    def sweep(self, fault: str, number: int, trials: int, **resources: float) -> Subject:
        """A sweep of its own. Real ones share their prepared models."""
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
    told: str,
    strike: Callable[[list[psutil.Process]], int],
    **resources: float,
) -> Tally:
    """Strike the ranks of running sweeps, a trial or more apart."""
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
        # A blow to a lane between two trials, or to one that was being started again, is nothing that a
        # trial's log could tell of.
        tally.close(subject, ended=ended, told=told, times=struck // 2)
    return tally


def worker_killed(scene: Scene, injections: int) -> Tally:
    """SIGKILL of a rank, as the kernel does that is out of memory."""

    def strike(ranks: list[psutil.Process]) -> int:
        if ranks:
            scene.dice.choice(ranks).kill()
        return len(ranks[:1])

    return strike_while_it_runs(
        scene, "worker-killed", injections, "its workers died; it starts again", strike
    )


def worker_hangs(scene: Scene, injections: int) -> Tally:
    """SIGSTOP of a rank: it is there, and does nothing."""

    def strike(ranks: list[psutil.Process]) -> int:
        if ranks:
            scene.dice.choice(ranks).suspend()
        return len(ranks[:1])

    quiet_s = 4.0 if scene.cheap else 20.0
    return strike_while_it_runs(
        scene, "worker-hangs", injections, "its workers hung", strike, quiet_timeout_s=quiet_s
    )


def trial_diverges(scene: Scene, injections: int) -> Tally:
    """Trials whose settings have no result, among others: they fail, and nothing else does."""
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
        tally.close(subject, ended=ended, told="lower optimizer.learning_rate", times=count)
    return tally


def driver_killed(scene: Scene, injections: int) -> Tally:
    """SIGKILL of the driver at any moment of its life, every fourth time in its first second."""
    return strike_the_driver(scene, "driver-killed", injections, signal.SIGKILL)


def driver_terminated(scene: Scene, injections: int) -> Tally:
    """SIGTERM of the driver, as SLURM and Kubernetes send it."""
    return strike_the_driver(scene, "driver-terminated", injections, signal.SIGTERM)


def strike_the_driver(scene: Scene, fault: str, injections: int, end: signal.Signals) -> Tally:
    """End drivers, start them again, and let the last one finish."""
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
        tally.close(subject, ended=subject.finish(), told="resuming")
    return tally


def anything(scene: Scene, injections: int) -> Tally:
    """Ranks that die and hang, and drivers that are killed and terminated, in one sweep after another."""
    tally = Tally("anything")
    while tally.injected < injections:
        subject = scene.sweep(
            "anything", tally.sweeps, scene.trials, quiet_timeout_s=4.0 if scene.cheap else 20.0
        )
        finished = False
        while tally.injected < injections and not finished:
            with subject.driver() as process:
                finished = not _strike_one_start(scene, subject, process, tally, injections)
                if finished:
                    finished = subject.ended_well(process)
        tally.close(
            subject, ended=finished or subject.finish(), told="again" if tally.injected == 1 else "resuming"
        )
    return tally


def _strike_one_start(
    scene: Scene, subject: Subject, process: subprocess.Popen, tally: Tally, injections: int
) -> bool:
    """Strike until the driver is struck, or enough is done. Returns: whether the driver is gone."""
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
