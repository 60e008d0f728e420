"""A checkpoint on disk: a folder that appears atomically, with a tensor file per rank and one shared file."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.durable_files import PARTIAL, rename_folder, sync_file

SHARED = "shared.json"


class TornCheckpointError(Exception):
    """A checkpoint differs from what was written, for example after a full disk or a crash of the machine."""


def step_folder(home: Path, step: int) -> Path:
    """Return the folder of the checkpoint after `step` steps, in the trial's checkpoint folder `home`."""
    return home / f"step{step}"


def partial_folder(home: Path, step: int, writer: str) -> Path:
    """Return the folder that a checkpoint is written to before it is complete."""
    # The writer's name separates two groups of workers: one that was taken for dead may still be writing.
    return home / f"step{step}.{writer}{PARTIAL}"


def whole_steps(home: Path) -> list[int]:
    """Return the steps of the complete checkpoints, newest first."""
    names = [path.name.removeprefix("step") for path in home.glob("step*")]
    # `isdigit` leaves out folders that are still being written: their names have a suffix.
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def write_rank(partial: Path, rank: int, tensors: Mapping[str, Tensor]) -> str:
    """Write one rank's tensors and wait until they are on the disk.

    Args:
        partial: Folder from `partial_folder`; created if missing.
        rank: Rank that names the file.
        tensors: Tensors on any device; torch copies one at a time to the CPU.

    Returns:
        sha256 of the file.

    Raises:
        OSError, RuntimeError: The disk refuses; torch raises either.
    """
    partial.mkdir(parents=True, exist_ok=True)
    path = _rank_file(partial, rank)
    with path.open("wb") as file:
        torch.save(dict(tensors), file)
    sync_file(path)
    return _digest(path)


def seal(partial: Path, home: Path, step: int, digests: Sequence[str], shared: Mapping[str, Any]) -> None:
    """Complete a checkpoint whose ranks have written their files, then remove earlier checkpoints. Ranks: 0.

    Args:
        partial: Folder that the ranks have written to.
        home: The trial's checkpoint folder.
        step: Number of finished steps.
        digests: sha256 of each rank's file, by rank.
        shared: JSON data that is equal on every rank.

    Raises:
        OSError: The disk refuses; earlier checkpoints stay as they were.
    """
    with (partial / SHARED).open("w") as file:
        json.dump({"digests": list(digests), **shared}, file)
    whole = step_folder(home, step)
    rename_folder(partial, whole)
    for other in home.iterdir():
        if other != whole:
            shutil.rmtree(other, ignore_errors=True)


def read_shared(checkpoint: Path) -> dict[str, Any]:
    """Read the shared file of a checkpoint: `digests`, and the keys of `shared` in `seal`.

    Raises:
        TornCheckpointError: The file cannot be read, or holds something else.
    """
    try:
        shared = json.loads((checkpoint / SHARED).read_text())
    except (OSError, ValueError) as error:
        raise TornCheckpointError(f"{SHARED} cannot be read") from error
    if not isinstance(shared, dict) or not isinstance(shared.get("digests"), list):
        raise TornCheckpointError(f"{SHARED} holds something else")
    return shared


def read_rank(checkpoint: Path, rank: int, digest: str) -> dict[str, Tensor]:
    """Map one rank's tensors from the disk; they are read when they are used.

    Raises:
        TornCheckpointError: The file is missing, or not the one that was written.
    """
    path = _rank_file(checkpoint, rank)
    try:
        if _digest(path) != digest:
            raise TornCheckpointError(f"{path.name} is not the one that was written")
        # Mapped, not read: the tensors are copied to the device one by one. `weights_only` refuses pickled
        # code.
        tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        return tensors
    except OSError as error:
        raise TornCheckpointError(f"{path.name} cannot be read") from error


def remove_partials(home: Path) -> None:
    """Remove the incomplete checkpoints of workers that died while writing."""
    for path in home.glob(f"*{PARTIAL}"):
        shutil.rmtree(path, ignore_errors=True)


def _rank_file(folder: Path, rank: int) -> Path:
    return folder / f"rank{rank}.pt"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
