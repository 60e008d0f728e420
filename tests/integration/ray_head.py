"""A Ray head with its dashboard and token authentication, as on a cluster, and nothing left of it afterwards."""

import contextlib
import os
import shutil
import signal
import socket
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

SCRIPTS = Path(sys.executable).parent
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
    """A head that runs: the dashboard's URL, its temporary folder with all logs, and the environment that its jobs inherit."""

    address: str
    temporary: Path
    environment: dict[str, str] = field(repr=False)

    def command(self, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run one of the environment's scripts (`ray`, `lethe`) to its end."""
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
    """Start a head on free ports; end it, and every process that came of it, also when the block fails."""
    # Short, because paths of sockets have at most 107 characters.
    temporary = Path(tempfile.mkdtemp(prefix="head", dir="/tmp"))
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    # `lethe` and `python` of a job are found on the head's PATH.
    environment = environment | {"PATH": f"{SCRIPTS}:{os.environ['PATH']}"}
    environment.pop("RAY_ADDRESS", None)
    options = [f"--{name}={port}" for name, port in ports.items()]
    command = [str(SCRIPTS / "ray"), "start", "--head", "--block", f"--num-cpus={cpus}", f"--temp-dir={temporary}", *options]
    command += ["--disable-usage-stats", "--object-store-memory=200000000", "--node-ip-address=127.0.0.1"]
    with (temporary / "start.txt").open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        head = Head(f"http://127.0.0.1:{ports['dashboard-port']}", temporary, environment)
        _wait_for_dashboard(head, process)
        yield head
    finally:
        _end(process, str(temporary))
        shutil.rmtree(temporary, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]


def _wait_for_dashboard(head: Head, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    asked = urllib.request.Request(f"{head.address}/api/version", headers={"Authorization": f"Bearer {head.environment['RAY_AUTH_TOKEN']}"})
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(asked, timeout=5):
            return
        assert process.poll() is None and time.monotonic() < deadline, (head.temporary / "start.txt").read_text()
        time.sleep(0.3)


def _end(process: subprocess.Popen, temporary: str) -> None:
    """End the processes below `process`, and those that left it but name its temporary folder, which nobody else's do."""
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
    found = []
    for candidate in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if any(temporary in word for word in candidate.cmdline()):
                found.append(candidate)
    return found
