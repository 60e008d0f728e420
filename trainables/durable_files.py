"""Writes files and folders whole: a reader finds the old state or the new one, also after a power cut.

Everything is first written under a partial name of its own, then flushed to the device, and then renamed. A
rename alone is not enough: after a power cut the new name may stand for an empty file.
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PARTIAL = ".partial"
"""Suffix of everything that is still being written, or was when its writer died."""


def partial_path(path: Path) -> Path:
    """Return a name beside `path` under which one writer can prepare it, different at every call."""
    # Process ids are not enough: machines that share a file system have equal ones.
    return path.with_name(f"{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}{PARTIAL}")


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Give a partial file to write in the block, and put it in the place of `path` when the block ends.

    If the block raises, `path` stays as it was.

    Args:
        path: Final name; its folder is created if missing.

    Raises:
        OSError: The disk refuses; `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        yield partial
        sync_file(partial)
        partial.replace(path)
    finally:
        # Does nothing after the rename.
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    with replaced_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Write a JSON file; floats are read back bit for bit."""
    write_text(path, json.dumps(value, indent=indent))


def rename_folder(partial: Path, path: Path) -> None:
    """Give a folder that has been written under a partial name its final name.

    Args:
        partial: The complete folder.
        path: Final name, which must be free or an empty folder.

    Raises:
        OSError: The disk refuses, or `path` is a folder with entries.
    """
    # Files first, then the names of the files, then the rename: after a power cut at any point the folder is
    # complete or has no valid name.
    for folder, _, names in os.walk(partial, topdown=False):
        for name in names:
            sync_file(Path(folder, name))
        sync_folder(Path(folder))
    partial.rename(path)
    sync_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a partial folder to fill in the block, and give it the name `path` when the block ends.

    If the block raises, or `path` is there meanwhile, nothing of the partial folder stays.

    Args:
        path: Final name; its parent is created if missing.

    Raises:
        OSError: The disk refuses, or `path` is a folder with entries.
    """
    partial = partial_path(path)
    partial.mkdir(parents=True)
    try:
        yield partial
        rename_folder(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on the device."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the device."""
    # Some shared file systems refuse to sync a folder; their renames are as durable as they will get.
    with suppress(OSError):
        sync_file(folder)
