import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.lanes.sigterm import EXIT_STATUS, GRACE_S, LINE
from tests.support.places import ROOT

BEGIN = """
import signal, subprocess, sys, time
from orchestrator.lanes.sigterm import ended_by_sigterm, sigterm_kept, terminating
def hit():
    signal.raise_signal(signal.SIGTERM)
"""


def command(body, **more):
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + body], cwd=ROOT, capture_output=True, text=True, timeout=60, **more
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "body",
    [
        "with ended_by_sigterm():\n    hit()",
        # What is on the way out still ends what it has begun ...
        "with ended_by_sigterm():\n    try:\n        hit()\n    finally:\n        assert terminating()",
        # ... and may fail, since Ray may be gone already.
        (
            "with ended_by_sigterm():\n    try:\n        hit()\n    finally:\n        raise RuntimeError('Ray"
            " is gone')"
        ),
        "with ended_by_sigterm():\n    try:\n        hit()\n    finally:\n        hit()",
    ],
)
def test_sigterm_ends_with_one_line_and_its_own_status(body):
    assert command(body) == (143, "", f"{LINE}\n")
    assert EXIT_STATUS == 143 and "run the same command again" in LINE


def test_sigterm_while_ray_starts_is_taken_like_any_other():
    # Ray's own handlers: one that exits, then one in C++ in its place.
    exits = "signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))"
    assert command(f"with ended_by_sigterm():\n    with sigterm_kept():\n        {exits}\n        hit()") == (
        143,
        "",
        f"{LINE}\n",
    )
    assert command(f"with ended_by_sigterm():\n    with sigterm_kept():\n        {exits}\n    hit()") == (
        143,
        "",
        f"{LINE}\n",
    )


def test_what_hangs_on_the_way_out_is_left_behind():
    began = time.monotonic()
    body = "with ended_by_sigterm():\n    try:\n        hit()\n    finally:\n        time.sleep(50)"
    assert command(body) == (143, "", f"{LINE}\n")
    assert time.monotonic() - began < GRACE_S + 10


def test_processes_that_a_child_has_started_end_too(tmp_path):
    pid = tmp_path / "pid"
    raylet = f"sleep 100 & echo $! > {pid}.partial; mv {pid}.partial {pid}; wait"
    body = f"with ended_by_sigterm():\n    subprocess.Popen(['sh', '-c', {raylet!r}])\n"
    body += f"    import os\n    while not os.path.exists({str(pid)!r}):\n        time.sleep(.01)\n    hit()"
    assert command(body)[0] == 143
    deadline = time.monotonic() + 10
    while is_running(int(pid.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_other_ends_stay_as_they_are_and_the_handler_goes():
    body = (
        "with ended_by_sigterm():\n    pass\nprint(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,"
        " terminating())"
    )
    assert command(body) == (0, "True False\n", "")
    status, _, said = command("with ended_by_sigterm():\n    raise ValueError('mine')")
    assert status == 1 and said.endswith("ValueError: mine\n")


def test_reader_that_has_gone_is_no_obstacle():
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + "with ended_by_sigterm():\n    hit()"], cwd=ROOT, stderr=write
    )
    os.close(write)
    assert process.wait(60) == 143


def test_command_takes_sigterm_before_it_has_loaded_anything_heavy():
    first_import = """
class Hit:
    def find_spec(self, name, *rest):
        if name == "search_spaces.loading.loader":
            hit()
sys.meta_path.insert(0, Hit())
sys.argv = ["lethe", "validate", "quickstart.yaml"]
from orchestrator.cli import main
assert not {"ray", "torch", "mlflow"} & set(sys.modules)
main()
"""
    assert command(first_import) == (143, "", f"{LINE}\n")
