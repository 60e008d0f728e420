"""A checkpoint on disk: a folder that is there whole or not at all, with one file of tensors for each rank
and one of what ranks share."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SHARED = "shared.json"
PARTIAL = ".partial"


class TornCheckpointError(Exception):
    """A checkpoint is not what was written: torn by a full disk or a machine that went down."""


def step_folder(home: Path, step: int) -> Path:
    """Where the checkpoint after so many steps lies, under the trial's `home` of checkpoints."""
    return home / f"step{step}"


def partial_folder(home: Path, step: int, writer: str) -> Path:
    """Where it is written. `writer` keeps a group that was taken for dead, and is not, from writing into the
    same files."""
    return home / f"step{step}.{writer}{PARTIAL}"


def whole_steps(home: Path) -> list[int]:
    """Steps of the checkpoints that are there, the newest first."""
    names = [path.name.removeprefix("step") for path in home.glob("step*")]
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def write_rank(partial: Path, rank: int, tensors: Mapping[str, Tensor]) -> str:
    """Write one rank's tensors and wait for the disk.

    Args:
        partial: See `partial_folder`; made here.
        rank: Names the file.
        tensors: Any devices; one at a time is copied to the CPU.

    Returns:
        sha256 of the file.

    Raises:
        OSError, RuntimeError: The disk refuses; which of the two, torch does not promise.
    """
    partial.mkdir(parents=True, exist_ok=True)
    path = _rank_file(partial, rank)
    with path.open("wb") as file:
        torch.save(dict(tensors), file)
        file.flush()
        os.fsync(file.fileno())
    return _digest(path)


def seal(partial: Path, home: Path, step: int, digests: Sequence[str], shared: Mapping[str, Any]) -> None:
    """Make a checkpoint of a folder that holds the files of all ranks, and only then drop those before it.
    Ranks: 0.

    Args:
        partial: Where the ranks have written.
        home: Where checkpoints lie.
        step: Steps that are done.
        digests: sha256 of each rank's file, by rank.
        shared: What is equal on every rank, for JSON.

    Raises:
        OSError: The disk refuses; the checkpoints before it are as they were.
    """
    with (partial / SHARED).open("w") as file:
        json.dump({"digests": list(digests), **shared}, file)
        file.flush()
        os.fsync(file.fileno())
    _sync_names(partial)
    whole = partial.rename(step_folder(home, step))
    _sync_names(home)
    for other in home.iterdir():
        if other != whole:
            shutil.rmtree(other, ignore_errors=True)


def read_shared(checkpoint: Path) -> dict[str, Any]:
    """What `seal` wrote: `digests` and `shared`.

    Raises:
        TornCheckpointError: It cannot be read.
    """
    try:
        shared = json.loads((checkpoint / SHARED).read_text())
    except (OSError, ValueError) as error:
        raise TornCheckpointError(f"{SHARED} cannot be read") from error
    if not isinstance(shared, dict) or not isinstance(shared.get("digests"), list):
        raise TornCheckpointError(f"{SHARED} holds something else")
    return shared


def read_rank(checkpoint: Path, rank: int, digest: str) -> dict[str, Tensor]:
    """One rank's tensors on the CPU, read from the disk when they are used.

    Raises:
        TornCheckpointError: The file is missing, or not the one that was written.
    """
    path = _rank_file(checkpoint, rank)
    try:
        if _digest(path) != digest:
            raise TornCheckpointError(f"{path.name} is not the one that was written")
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except OSError as error:
        raise TornCheckpointError(f"{path.name} cannot be read") from error


def remove_partials(home: Path) -> None:
    """Drop what was being written when a worker died."""
    for path in home.glob(f"*{PARTIAL}"):
        shutil.rmtree(path, ignore_errors=True)


def _rank_file(folder: Path, rank: int) -> Path:
    return folder / f"rank{rank}.pt"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_names(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    # Some shared file systems cannot do this for folders; their renames are as durable as they will get.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
