"""The file that holds a study: Optuna's journal, written in whole lines, and repaired where a kill or a full
disk cut the last one off."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage

# Only the driver writes, for milliseconds: an older lock was left by a driver that was killed in mid-write.
STALE_LOCK_S = 5


class StudyJournal(JournalStorage):
    """Optuna's journal storage on one file.

    A killed process loses nothing that was written. Only a power cut does, back to the last durable write:
    trials that had not ended, which are repeated anyway. So the disk is waited for (a millisecond or more)
    once per trial and not at every rung.

    Args:
        path: The file; created when missing.
        repair: Cut off what a killed writer left unfinished. Only for whoever holds the sweep's lock.
    """

    def __init__(self, path: Path, *, repair: bool) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # Not Optuna's default lock, a symbolic link: with a relative path a stale one makes the next driver
        # spin for ever.
        lock = JournalFileOpenLock(str(path), grace_period=STALE_LOCK_S)
        if repair and path.exists():
            lock.acquire()
            try:
                drop_torn_line(path)
            finally:
                lock.release()
        self._file = _File(path, lock)
        super().__init__(self._file)

    @contextmanager
    def together(self, *, durable: bool = False) -> Iterator[None]:
        """Everything set inside is one write at the end, and is seen only then.

        A kill in mid-write leaves the first few records of it: set first what tells how to go on.

        Args:
            durable: Whether the write outlives a power cut once this returns.
        """
        self._file.held = []
        try:
            yield
        finally:
            held, self._file.held = self._file.held, None
            self._file.write(held, durable)


def write_whole(file: RawIOBase, data: bytes) -> None:
    """Write all of it, or raise: a raw write may take less than it was given."""
    while data:
        data = data[file.write(data) :]


class _File(JournalFileBackend):
    def __init__(self, path: Path, lock: JournalFileOpenLock) -> None:
        super().__init__(str(path), lock)
        self._path, self._write_lock = path, lock
        self.held: list[dict[str, Any]] | None = None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if self.held is None:
            self.write(logs, durable=False)
        else:
            self.held += logs

    def write(self, logs: list[dict[str, Any]], durable: bool) -> None:
        """Add records, all or none of them where the disk is full."""
        lines = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs)
        self._write_lock.acquire()
        try:
            with self._path.open("ab", buffering=0) as file:
                size = file.tell()
                try:
                    write_whole(file, lines.encode())
                except OSError as error:
                    # On a full disk the beginning of a line may have gone in; the next writer would go on in
                    # the middle of it.
                    file.truncate(size)
                    raise OSError(error.errno, error.strerror, str(self._path)) from error
                if durable:
                    os.fsync(file.fileno())
        finally:
            self._write_lock.release()


def drop_torn_line(journal: Path) -> None:
    """Cuts off a last line without an end.

    A kill or a full disk in mid-write leaves one; the next event would be glued to it and everything after be
    unreadable.

    Args:
        journal: A file that nobody writes to meanwhile.
    """
    with journal.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
