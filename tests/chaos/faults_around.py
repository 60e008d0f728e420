"""Faults of what a sweep stands on: MLflow's server, the disk, the cluster's nodes, and the job that it runs
as."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.chaos.faults import Scene, Tally
from tests.chaos.subject import END_S, Subject, pause
from tests.support.processes.launch import lethe_environment
from tests.support.processes.mlflow_server import free_port, mlflow_server
from tests.support.processes.ray_head import TOKEN, Head, ray_head
from tests.support.processes.ray_nodes import ray_node

DISK = "64m"


def mlflow_away(scene: Scene, injections: int) -> Tally:
    """MLflow's server ends and comes back, for the last time after the sweep has ended."""
    tally = Tally("mlflow-away")
    folder = scene.folder / "mlflow"
    folder.mkdir(exist_ok=True)
    port = free_port()
    with ExitStack() as server:
        while tally.injected < injections:
            subject = scene.sweep("mlflow-away", tally.sweeps, 3 * scene.trials)
            subject.tracking_uri = f"http://127.0.0.1:{port}"
            server.enter_context(mlflow_server(folder, port))
            with subject.driver() as process:
                while tally.injected < injections and subject.wait_for_more(process, more=2):
                    pause(scene.dice, 0, 1.0)
                    server.close()
                    tally.injected += 1
                    if tally.injected < injections:
                        pause(scene.dice, 0, 4.0)
                        server.enter_context(mlflow_server(folder, port))
                ended = subject.ended_well(process)
            server.close()
            with mlflow_server(folder, port):
                tally.close(subject, ended=ended and subject.finish(), told="warning: MLflow at")
    return tally


def disk_full(scene: Scene, injections: int) -> Tally:
    """The disk that holds the sweeps is full, until somebody makes room."""
    tally = Tally("disk-full")
    if os.geteuid() != 0:
        print("disk-full: left out, a small disk of its own takes root")
        return tally
    with small_disk(scene.folder / "disk") as disk:
        while tally.injected < injections:
            subject = scene.sweep("disk-full", tally.sweeps, 3 * scene.trials)
            subject.storage_path = disk
            struck = 0
            finished = False
            while tally.injected < injections and not finished:
                with subject.driver() as process:
                    if subject.wait_for_more(process, more=1):
                        pause(scene.dice, 0, 1.0)
                        subject.look()
                        fill(disk / "filler")
                        with suppress(subprocess.TimeoutExpired):
                            process.wait(END_S)
                        # It may have ended before, or have got along with what room there was.
                        struck, tally.injected = (
                            struck + (process.returncode == 2),
                            tally.injected + (process.returncode == 2),
                        )
                    finished = process.poll() == 0
                    (disk / "filler").unlink(missing_ok=True)
                    if process.returncode not in (0, 2):
                        tally.not_ended.append(
                            f"{subject.name}: exit status {process.returncode}: {subject.output[-2000:]}"
                        )
                        return tally
            tally.close(subject, ended=subject.finish(), told="no space left on device", times=struck)
    return tally


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk that is soon full."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "lethe-chaos", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    file.write(b"\0" * size)


def node_removed(scene: Scene, injections: int) -> Tally:
    """A node of three is gone without a word, and another one comes."""
    tally = Tally("node-removed")
    with ray_head(cluster_environment(scene), cpus=0) as head, ExitStack() as all_nodes:
        nodes = [all_nodes.enter_context(ray_node(head, 2)) for _ in range(2)]
        while tally.injected < injections:
            resources = {"cpus_per_worker": 1.0, "max_lanes": 2, "preemptions": 100}
            subject = scene.sweep("node-removed", tally.sweeps, 3 * scene.trials, **resources)
            subject.environment |= head.joined
            with subject.driver() as process:
                while tally.injected < injections and subject.wait_for_more(process, more=2):
                    pause(scene.dice, 0, 2.0)
                    nodes.pop(scene.dice.randrange(len(nodes))).vanish()
                    tally.injected += 1
                    pause(scene.dice, 0, 5.0)
                    nodes.append(all_nodes.enter_context(ray_node(head, 2)))
                ended = subject.ended_well(process)
            tally.close(subject, ended=ended, told="it starts again")
    return tally


def cluster_environment(scene: Scene) -> dict[str, str]:
    """What a cluster and its jobs see."""
    return lethe_environment(scene.folder / "storage", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN)


def job_stopped(scene: Scene, injections: int) -> Tally:
    """A Ray job is stopped, and submitted again."""
    tally = Tally("job-stopped")
    with ray_head(cluster_environment(scene)) as head:
        while tally.injected < injections:
            subject = scene.sweep("job-stopped", tally.sweeps, 3 * scene.trials)
            done = False
            while tally.injected < injections and not done:
                job = submit(head, subject)
                until = time.monotonic() + scene.dice.uniform(0, 20.0 if scene.cheap else 40.0)
                while time.monotonic() < until and not done:
                    done = status_of(head, subject, job) == "SUCCEEDED"
                if not done:
                    subject.look()
                    ray(head, subject, "stop", job)
                    tally.injected += 1
                note_output(head, subject, job)
            job = submit(head, subject)
            ended = wait_for_end(head, subject, job)
            tally.close(subject, ended=ended, told="resuming")
    return tally


def submit(head: Head, subject: Subject) -> str:
    """Submit the sweep by `ray job submit`. Returns: the job's id."""
    subject.starts += 1
    text = ray(head, subject, "submit", "--no-wait", "--", sys.executable, *subject.command[1:])
    found = re.search(r"raysubmit_\w+", text)
    assert found, text
    return found[0]


def status_of(head: Head, subject: Subject, job: str) -> str:
    """`RUNNING`, `STOPPED`, `SUCCEEDED` or `FAILED`."""
    text = ray(head, subject, "status", job)
    return next((word for word in ("SUCCEEDED", "FAILED", "STOPPED") if word in text.upper()), "RUNNING")


def wait_for_end(head: Head, subject: Subject, job: str) -> bool:
    """Wait for a job that nobody stops. Returns: whether it succeeded in time."""
    deadline = time.monotonic() + END_S
    while (status := status_of(head, subject, job)) == "RUNNING" and time.monotonic() < deadline:
        time.sleep(1)
    note_output(head, subject, job)
    return status == "SUCCEEDED"


def note_output(head: Head, subject: Subject, job: str) -> None:
    """Keep what a job printed where drivers' output is looked for."""
    (subject.file.parent / f"driver{subject.starts:03d}.txt").write_text(ray(head, subject, "logs", job))


def ray(head: Head, subject: Subject, command: str, *arguments: str) -> str:
    """Run `ray job ...`. Returns: what it printed."""
    options = ["--address", head.address]
    done = head.command("ray", "job", command, *options, *arguments, cwd=subject.file.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
