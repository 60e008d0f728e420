"""Further nodes for a Ray head on this machine, which can go away without notice, as spot nodes do."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.processes.launch import free_ports
from tests.support.processes.ray_head import SCRIPTS, Head

PORTS = (
    "node-manager-port",
    "object-manager-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
)

STARTED = "Ray runtime started"
START_S = 120.0


@dataclass(frozen=True)
class Node:
    """A running node."""

    process: subprocess.Popen

    def vanish(self) -> None:
        """Kill all its processes at once, as a power cut does."""
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        for member in family:
            try:
                member.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        self.process.kill()
        self.process.wait()


@contextmanager
def ray_node(head: Head, cpus: int) -> Iterator[Node]:
    """Start a node that joins a head during a block; it may vanish before the end of the block."""
    ports = zip(PORTS, free_ports(len(PORTS)), strict=True)
    command = [str(SCRIPTS / "ray"), "start", "--block", f"--address={head.gcs}", f"--num-cpus={cpus}"]
    command += [f"--{name}={port}" for name, port in ports]
    command += ["--disable-usage-stats", "--object-store-memory=100000000", "--node-ip-address=127.0.0.1"]
    log = Path(head.temporary, f"node{os.urandom(4).hex()}.txt")
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=head.environment, stdout=output, stderr=output, start_new_session=True
        )
        node = Node(process)
        try:
            # Lethe counts its lanes when it starts, so a node that joins later would add none.
            deadline = time.monotonic() + START_S
            while STARTED not in log.read_text():
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield node
        finally:
            node.vanish()
