"""Finds and removes files that are no longer needed: for `lethe clean`, and after the end of a trial."""

import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from orchestrator.storage.baselines import read_baselines
from orchestrator.storage.sweep_folder import SweepFolder, open_sweep, sweep_names
from orchestrator.storage.trial_records import TrialRecord


@dataclass(frozen=True)
class Removable:
    """A file or folder that `lethe clean` removes."""

    path: Path
    mib: float
    """Its size in MiB before the removal."""


def clean_storage(root: Path, sweep: str | None, *, remove: bool) -> list[Removable]:
    """Finds one sweep's folder, or everything that no sweep needs, and removes it if `remove` is true.

    Args:
        root: Storage root.
        sweep: The sweep whose folder is meant; None for what `unused` finds.
        remove: Whether to remove what was found. If false, nothing is changed.

    Returns:
        What was found, or removed.

    Raises:
        UserError: There is no such sweep, or a driver is running a sweep that the removal would affect.
    """
    names = sweep_names(root) if sweep is None else [open_sweep(root, sweep)[0].name]
    with ExitStack() as locks:
        if remove:
            # While the locks are held, no driver of these sweeps can use the files or come to need more.
            for name in names:
                locks.enter_context(SweepFolder(root, name).locked())
        paths = unused(root) if sweep is None else [SweepFolder(root, sweep).path]
        found = [Removable(path, size_mib(path)) for path in paths]
        if remove:
            for path in paths:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


def unused(root: Path) -> list[Path]:
    """Returns the scratch folders of Ray, and the prepared models and measurements that no sweep uses."""
    folders = [SweepFolder(root, name) for name in sweep_names(root)]
    used = {
        Path(part).name
        for folder in folders
        for baseline in read_baselines(folder).values()
        for part in (baseline.folder, baseline.measurement)
    }
    models = root / "models"
    # Initial weights are in no sweep's baselines, so they are removed as well: they are cheap to make again.
    spare = sorted(path for path in models.iterdir() if path.name not in used) if models.is_dir() else []
    return [folder.tune for folder in folders if folder.tune.is_dir()] + spare


def drop_unfinished(folder: SweepFolder, records: Iterable[TrialRecord]) -> None:
    """Removes the checkpoints and the incomplete weights of all trials that have ended.

    A trial that has ended may have some: a lane that lost its driver goes on writing until it notices.
    """
    for record in records:
        if record.ended:
            for path in (folder.checkpoint(record.trial_id), *folder.half_written_weights(record.trial_id)):
                shutil.rmtree(path, ignore_errors=True)


def size_mib(path: Path) -> float:
    """Returns the size of a file, or of all files below a folder, in MiB."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1024**2
