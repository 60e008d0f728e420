"""Faults around a sweep: MLflow's server, the disk, nodes of the cluster, and the Ray job that it runs as."""

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
    """Ends MLflow's server and starts it again, for the last time after the sweep has ended."""
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
                tally.close(subject, ended=ended and subject.finish(), reported="warning: MLflow at")
    return tally


def disk_full(scene: Scene, injections: int) -> Tally:
    """Fills the disk that holds the sweeps, and frees it when the driver has ended."""
    tally = Tally("disk-full")
    if os.geteuid() != 0:
        print("disk-full: left out, because only root can mount a small disk")
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
                        # The sweep may have ended before, or have needed no more space than was left.
                        failed = process.returncode == 2
                        struck, tally.injected = struck + failed, tally.injected + failed
                    finished = process.poll() == 0
                    (disk / "filler").unlink(missing_ok=True)
                    if process.returncode not in (0, 2):
                        status = f"exit status {process.returncode}: {subject.output[-2000:]}"
                        tally.not_ended.append(f"{subject.name}: {status}")
                        return tally
            tally.close(subject, ended=subject.finish(), reported="no space left on device", times=struck)
    return tally


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mounts a disk of the size `DISK`."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "lethe-chaos", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Writes a file until the disk is full to the last byte."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    file.write(b"\0" * size)


def node_removed(scene: Scene, injections: int) -> Tally:
    """Removes one of three nodes without notice, and adds another one."""
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
            tally.close(subject, ended=ended, reported="it starts again")
    return tally


def cluster_environment(scene: Scene) -> dict[str, str]:
    """Returns the environment of a cluster and its jobs."""
    return lethe_environment(scene.folder / "storage", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN)


def job_stopped(scene: Scene, injections: int) -> Tally:
    """Stops the Ray job that runs a sweep, and submits it again."""
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
            tally.close(subject, ended=ended, reported="resuming")
    return tally


def submit(head: Head, subject: Subject) -> str:
    """Submits the sweep by `ray job submit`. Returns: the job's id."""
    subject.starts += 1
    text = ray(head, subject, "submit", "--no-wait", "--", sys.executable, *subject.command[1:])
    found = re.search(r"raysubmit_\w+", text)
    assert found, text
    return found[0]


def status_of(head: Head, subject: Subject, job: str) -> str:
    """Returns `RUNNING`, `STOPPED`, `SUCCEEDED` or `FAILED`."""
    text = ray(head, subject, "status", job)
    return next((word for word in ("SUCCEEDED", "FAILED", "STOPPED") if word in text.upper()), "RUNNING")


def wait_for_end(head: Head, subject: Subject, job: str) -> bool:
    """Waits for a job that is not stopped any more. Returns: whether it succeeded in time."""
    deadline = time.monotonic() + END_S
    while (status := status_of(head, subject, job)) == "RUNNING" and time.monotonic() < deadline:
        time.sleep(1)
    note_output(head, subject, job)
    return status == "SUCCEEDED"


def note_output(head: Head, subject: Subject, job: str) -> None:
    """Writes a job's output to the file from which `Subject.output` reads a driver's."""
    (subject.file.parent / f"driver{subject.starts:03d}.txt").write_text(ray(head, subject, "logs", job))


def ray(head: Head, subject: Subject, command: str, *arguments: str) -> str:
    """Runs `ray job COMMAND`. Returns: its output."""
    options = ["--address", head.address]
    done = head.command("ray", "job", command, *options, *arguments, cwd=subject.file.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
