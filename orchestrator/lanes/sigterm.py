"""Ends a command on SIGTERM with one line and its own exit status.

`ray job stop`, SLURM and Kubernetes send SIGTERM, and SIGKILL a few seconds later.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

EXIT_STATUS = 128 + signal.SIGTERM
"""Exit status of a command that SIGTERM has ended, as shells report it."""

LINE = "terminated (SIGTERM): run the same command again to go on"
"""The last line that such a command prints, on stderr."""

GRACE_S = 1.5
"""Seconds that a command gets to end by itself: `ray job stop` kills it after 3."""

_begun = threading.Event()


class Terminated(SystemExit):
    """SIGTERM has arrived. Raised in the main thread, wherever it is."""


def terminating() -> bool:
    """Return whether SIGTERM has arrived, so that callers leave out what takes seconds."""
    return _begun.is_set()


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the command during a block, with one line and exit status 143. Main thread only."""
    exiting = threading.Lock()
    before = signal.signal(signal.SIGTERM, lambda number, frame: _begin_exit(exiting))
    try:
        yield
    except BaseException:
        # Any exception can follow SIGTERM: SLURM signals all processes at once, so Ray may be gone already.
        if terminating():
            _exit(exiting)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def keep_sigterm_handler() -> Iterator[None]:
    """Keep the handler of SIGTERM over a block that starts Ray. Main thread only.

    Ray installs two handlers of its own, one after the other. The first one exits at once; the second one,
    in C++, aborts the process with a stack trace, and would stay.
    """
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as error:
        # Ray's first handler exits with the signal's number as status.
        if error.code == signal.SIGTERM and callable(handler):
            handler(signal.SIGTERM, None)
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)


def _begin_exit(exiting: threading.Lock) -> None:
    """Handle SIGTERM: raise `Terminated`, and end the process after `GRACE_S` in any case."""
    if terminating():
        # A second SIGTERM must not disturb the exit that has begun.
        return
    _begun.set()
    # Cleaning up may hang, on a server or on a Ray that is gone. The SIGKILL would then come before the line.
    timer = threading.Timer(GRACE_S, _exit, (exiting,))
    timer.daemon = True
    timer.start()
    raise Terminated(EXIT_STATUS)


def _exit(exiting: threading.Lock) -> None:
    """Print the line and end the process; a second call, from another thread, does nothing."""
    if not exiting.acquire(blocking=False):
        return
    # A live table hides the cursor.
    show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
    # The reader of the output may have gone already.
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.write(f"{show_cursor}{LINE}\n")
        sys.stderr.flush()
    _kill_local_workers()
    # Not by sys.exit: Python's teardown takes seconds once Ray and torch are loaded.
    os._exit(EXIT_STATUS)


def _kill_local_workers() -> None:
    """Kill what a Ray started by this process has started in turn: workers, and two agents.

    The agents would otherwise stay for minutes. Ray's own processes end with this one. `ray.shutdown` is not
    called: a thread that still waits for a lane would find Ray gone, and end the process in C++ with exit
    status 1.
    """
    for raylet in psutil.Process().children():
        for descendant in raylet.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                descendant.kill()
