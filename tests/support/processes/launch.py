"""Starts Lethe as a user does: under torchrun, and by its command line."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from orchestrator.cli import app
from tests.support.places import ROOT


def with_root() -> str:
    """Return PYTHONPATH with the checkout in front; it may name the folder of the packages already."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


def torchrun(workers: int, steps: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Run steps of rank_script.py on freshly started ranks, and return their results."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "request0.json").write_text(json.dumps(steps))
    (folder / "end").touch()
    run_ranks(workers, Path(__file__).with_name("rank_script.py"), str(folder))
    return json.loads((folder / "answer0.json").read_text())


def run_ranks(workers: int, script: Path, *arguments: str) -> None:
    """Run a script under torchrun to its end."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(workers),
        str(script),
        *arguments,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": with_root(), "PYTHONFAULTHANDLER": "1"}
    environment["LETHE_TESTS_PID"] = str(os.getpid())
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-5000:]


REAL = "orchestrator.cli"
MADE_UP = "tests.chaos.cheap_lethe"
"""The `lethe` command with real trials, and with made-up ones behind real Ray, lanes, study and MLflow."""


def lethe(
    *arguments: str,
    storage: Path,
    check: bool = True,
    timeout: float = 500,
    module: str = REAL,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run one `lethe` command to its end."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=lethe_environment(storage, **environment),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def lethe_here(
    *arguments: str, storage: Path, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a `lethe` command that starts no other process in this one, which has done its imports.

    A process of its own takes three seconds to import what most commands need.
    """
    done = CliRunner().invoke(app, arguments, env={"LETHE_STORAGE": str(storage), **environment})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert not check or done.exit_code == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def lethe_environment(storage: Path, **more: str) -> dict[str, str]:
    """Return the environment of a command that keeps its sweeps in `storage`."""
    ours = {"PYTHONPATH": str(ROOT), "LETHE_STORAGE": str(storage), "RAY_AUTH_MODE": "disabled"}
    return os.environ | ours | more


def free_ports(count: int) -> list[int]:
    """Return different ports that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]
