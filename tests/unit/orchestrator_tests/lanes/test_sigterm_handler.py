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
from orchestrator.lanes.sigterm import ended_by_sigterm, keep_sigterm_handler, terminating
def receive():
    signal.raise_signal(signal.SIGTERM)
"""
CLEANUP = "with ended_by_sigterm():\n    try:\n        receive()\n    finally:\n        "
ENDED = (143, "", f"{LINE}\n")


def run_script(body, **more):
    """Runs Python code after `BEGIN`, and returns its exit status, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + body], cwd=ROOT, capture_output=True, text=True, timeout=60, **more
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "body",
    [
        "with ended_by_sigterm():\n    receive()",
        # Cleaning up goes on after the signal ...
        f"{CLEANUP}assert terminating()",
        # ... may fail, since Ray may be gone already ...
        f"{CLEANUP}raise RuntimeError('Ray is gone')",
        # ... and is not disturbed by a second signal.
        f"{CLEANUP}receive()",
    ],
    ids=["plain", "cleaning up", "failure in cleaning up", "second signal"],
)
def test_sigterm_ends_with_one_line_and_its_own_status(body):
    assert run_script(body) == ENDED
    assert EXIT_STATUS == 143 and "run the same command again" in LINE


def test_sigterm_while_ray_starts_ends_the_command_like_any_other():
    # Like the first of the two handlers that Ray installs.
    ray_handler = "signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))"
    start_ray = f"with ended_by_sigterm():\n    with keep_sigterm_handler():\n        {ray_handler}\n"
    assert run_script(f"{start_ray}        receive()") == ENDED
    assert run_script(f"{start_ray}    receive()") == ENDED


def test_cleaning_up_that_hangs_is_cut_off():
    started = time.monotonic()
    assert run_script(f"{CLEANUP}time.sleep(50)") == ENDED
    assert time.monotonic() - started < GRACE_S + 10


def test_processes_that_a_child_has_started_are_killed(tmp_path):
    pid = tmp_path / "pid"
    raylet = f"sleep 100 & echo $! > {pid}.partial; mv {pid}.partial {pid}; wait"
    body = f"with ended_by_sigterm():\n    subprocess.Popen(['sh', '-c', {raylet!r}])\n"
    body += f"    import os\n    while not os.path.exists({str(pid)!r}):\n        time.sleep(.01)\n"
    body += "    receive()"
    assert run_script(body)[0] == 143
    deadline = time.monotonic() + 10
    while is_running(int(pid.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_other_exits_stay_as_they_are_and_the_handler_is_restored():
    state = "print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, terminating())"
    assert run_script(f"with ended_by_sigterm():\n    pass\n{state}") == (0, "True False\n", "")
    status, _, stderr = run_script("with ended_by_sigterm():\n    raise ValueError('mine')")
    assert status == 1 and stderr.endswith("ValueError: mine\n")


def test_command_ends_also_when_the_reader_of_its_output_has_gone():
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + "with ended_by_sigterm():\n    receive()"], cwd=ROOT, stderr=write
    )
    os.close(write)
    assert process.wait(60) == 143


def test_sigterm_is_handled_before_anything_heavy_is_imported():
    first_import = """
class SignalOnImport:
    def find_spec(self, name, *rest):
        if name == "search_spaces.loading.loader":
            receive()
sys.meta_path.insert(0, SignalOnImport())
sys.argv = ["lethe", "validate", "quickstart.yaml"]
from orchestrator.cli import main
assert not {"ray", "torch", "mlflow"} & set(sys.modules)
main()
"""
    assert run_script(first_import) == ENDED
