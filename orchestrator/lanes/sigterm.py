"""SIGTERM, as `ray job stop`, SLURM and Kubernetes send it: a command ends as by Ctrl-C, but before the
SIGKILL that follows."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

EXIT_STATUS = 128 + signal.SIGTERM
LINE = "terminated (SIGTERM): run the same command again to go on"

GRACE_S = 1.5
"""Seconds that a command gets to end by itself: `ray job stop` kills after 3."""

_begun = threading.Event()


class Terminated(SystemExit):
    """SIGTERM has arrived: raised in the main thread, wherever it is."""


def terminating() -> bool:
    """Whether SIGTERM has arrived: whatever would take seconds is left out."""
    return _begun.is_set()


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Within the block SIGTERM ends the command with one line and exit status 143. Main thread only."""
    told = threading.Lock()
    before = signal.signal(signal.SIGTERM, lambda number, frame: _end(told))
    try:
        yield
    except BaseException:
        # Whatever it is: on the way out Ray may be gone already, since SLURM tells all processes at once.
        if terminating():
            _leave(told)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Keep the handler of SIGTERM while the block starts Ray, which puts two of its own in its place. Main
    thread only.

    One leaves the process at once; the other, in C++, aborts it with a stack trace, and is the one that
    stays.
    """
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as error:
        if error.code == signal.SIGTERM and callable(handler):
            handler(signal.SIGTERM, None)
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)


def _end(told: threading.Lock) -> None:
    if terminating():
        return  # a second one must not disturb the end that has begun
    _begun.set()
    # What hangs on the way out (a server, a Ray that is gone) must not wait for the SIGKILL: nobody would be
    # told anything.
    forced = threading.Timer(GRACE_S, _leave, (told,))
    forced.daemon = True
    forced.start()
    raise Terminated(EXIT_STATUS)


def _leave(told: threading.Lock) -> None:
    """Print the line, once, and end the process."""
    if told.acquire(blocking=False):
        show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a live table hides it
        with suppress(OSError):  # nobody may be reading any more
            sys.stdout.flush()
            sys.stderr.write(f"{show_cursor}{LINE}\n")
            sys.stderr.flush()
        _end_local_ray()
        # At once: taking down a Python that has loaded Ray and torch takes seconds.
        os._exit(EXIT_STATUS)


def _end_local_ray() -> None:
    """End what the Ray that this process may have started has started in turn: workers, and two agents that
    would stay for minutes.

    Ray's own processes end with this one. Not by `ray.shutdown`, nor by their own end: a thread that still
    waits for a lane would find Ray gone, which ends the process in C++ with exit status 1.
    """
    for raylet in psutil.Process().children():
        for started in raylet.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                started.kill()
