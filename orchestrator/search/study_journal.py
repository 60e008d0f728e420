"""Optuna's journal file of a study: written in whole lines, and repaired after a kill or a full disk."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage

# Only the driver writes, and a write takes milliseconds: an older lock was left by a killed driver.
STALE_LOCK_S = 5


class StudyJournal(JournalStorage):
    """Optuna's journal storage on one file, with batched and durable writes.

    A killed process loses nothing that was written. A power cut loses the writes after the last durable one.
    These belong to trials that had not ended, which are repeated anyway. Therefore the driver waits for the
    disk (fsync, a millisecond or more) once per trial and not at every rung.

    Args:
        path: The file; created if it is missing.
        repair: Whether to cut off a line that a killed writer left unfinished. Only the holder of the sweep's
            lock may do so.
    """

    def __init__(self, path: Path, *, repair: bool) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # Optuna's default lock is a symbolic link. With a relative path, a stale link makes the next driver
        # wait forever.
        lock = JournalFileOpenLock(str(path), grace_period=STALE_LOCK_S)
        # Before Optuna reads the file: it fails on a line that is not JSON.
        if repair and path.exists():
            lock.acquire()
            try:
                drop_torn_line(path)
            finally:
                lock.release()
        self._file = _File(path, lock)
        super().__init__(self._file)

    @contextmanager
    def batched(self, *, durable: bool = False) -> Iterator[None]:
        """Collects all records set inside the block and writes them at its end in one write.

        The records are not visible before the end of the block. A kill during the write may leave only the
        first records, so the record from which the rest can be rebuilt must be set first.

        Args:
            durable: Whether the write survives a power cut once the block has ended.
        """
        self._file.held = []
        try:
            yield
        finally:
            held, self._file.held = self._file.held, None
            self._file.write(held, durable)


def write_whole(file: RawIOBase, data: bytes) -> None:
    """Writes all of the data, or raises."""
    # A raw write may write less than it was given, for example when the disk is nearly full.
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
        """Appends records; if the disk is full, none of them."""
        lines = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs)
        self._write_lock.acquire()
        try:
            with self._path.open("ab", buffering=0) as file:
                size = file.tell()
                try:
                    write_whole(file, lines.encode())
                except OSError as error:
                    # On a full disk the beginning of a line may have been written; the next record would be
                    # appended to it.
                    file.truncate(size)
                    raise OSError(error.errno, error.strerror, str(self._path)) from error
                # After the write and not after close: fsync needs the open file.
                if durable:
                    os.fsync(file.fileno())
        finally:
            self._write_lock.release()


def drop_torn_line(journal: Path) -> None:
    """Cuts off a last line that has no line end.

    A kill during a write leaves such a line. The next record would be appended to it, and Optuna could read
    neither it nor any record after it.

    Args:
        journal: The file; no other process may write to it meanwhile.
    """
    with journal.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
