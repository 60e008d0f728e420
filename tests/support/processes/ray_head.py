"""A Ray head with its dashboard and token authentication, as on a cluster."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.support.processes.launch import free_ports

SCRIPTS = Path(sys.executable).parent
TOKEN = "planted-token-0f3c9b7d5e1a"
SECRETS = {"MLFLOW_TRACKING_USERNAME": "planted-user-456", "MLFLOW_TRACKING_PASSWORD": "planted-secret-123"}
"""Environment variables that jobs inherit and must not show."""
PORTS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "ray-client-server-port",
)


@dataclass(frozen=True)
class Head:
    """A running head."""

    address: str
    """URL of the dashboard."""
    gcs: str
    """Host and port where drivers join."""
    temporary: Path
    """Folder with all logs."""
    environment: dict[str, str] = field(repr=False)
    """Environment that jobs inherit."""

    @property
    def joined(self) -> dict[str, str]:
        """Environment of a command that joins the cluster, five seconds faster than one that starts Ray."""
        authentication = {name: self.environment[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
        return {"RAY_ADDRESS": self.gcs} | authentication

    def command(self, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script of the Python environment, such as `ray` or `lethe`, to its end."""
        return subprocess.run(
            [str(SCRIPTS / arguments[0]), *arguments[1:]],
            cwd=cwd,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )


@contextmanager
def ray_head(environment: dict[str, str], cpus: int = 2) -> Iterator[Head]:
    """Start a head on free ports during a block, and end all its processes after it."""
    # A short path, because paths of sockets have at most 107 characters.
    temporary = Path(tempfile.mkdtemp(prefix="head", dir="/tmp"))
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    # Jobs find `lethe` and `python` on the PATH of the head.
    environment = environment | {"PATH": f"{SCRIPTS}:{os.environ['PATH']}"}
    environment.pop("RAY_ADDRESS", None)
    command = [str(SCRIPTS / "ray"), "start", "--head", "--block"]
    command += [f"--num-cpus={cpus}", f"--temp-dir={temporary}"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    command += ["--disable-usage-stats", "--object-store-memory=200000000", "--node-ip-address=127.0.0.1"]
    with (temporary / "start.txt").open("w") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        head = Head(
            f"http://127.0.0.1:{ports['dashboard-port']}",
            f"127.0.0.1:{ports['port']}",
            temporary,
            environment,
        )
        _wait_until_usable(head, process)
        yield head
    finally:
        _end(process, str(temporary))
        shutil.rmtree(temporary, ignore_errors=True)


def _wait_until_usable(head: Head, process: subprocess.Popen) -> None:
    """Wait for the dashboard, and for a node that takes work: under load the raylet may die while the head
    starts, and the dashboard answers all the same."""
    deadline = time.monotonic() + 90
    log = head.temporary / "start.txt"
    while not _has_living_node(head):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.3)


def _has_living_node(head: Head) -> bool:
    token = head.environment["RAY_AUTH_TOKEN"]
    request = urllib.request.Request(
        f"{head.address}/nodes?view=summary", headers={"Authorization": f"Bearer {token}"}
    )
    with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5) as answer:
        nodes = json.load(answer)["data"]["summary"]
        return any(node["raylet"].get("state") == "ALIVE" for node in nodes)
    return False


def _end(process: subprocess.Popen, temporary: str) -> None:
    """End `process`, its descendants, and those that have left it but name its temporary folder."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(3)
        for member in [*family, *_naming(temporary)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    process.kill()
    process.wait()


def _naming(temporary: str) -> list[psutil.Process]:
    """Return the processes with the folder, which is unique, in their command line."""
    found = []
    for candidate in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if any(temporary in word for word in candidate.cmdline()):
                found.append(candidate)
    return found
