"""`lethe clean`: removes what nobody needs, after saying what that is. And what a sweep removes by itself."""

import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from orchestrator.storage.baselines import read_baselines
from orchestrator.storage.sweep_folder import SweepFolder, open_sweep, sweep_names
from orchestrator.storage.trial_records import TrialRecord


def clean_storage(root: Path, sweep: str | None, yes: bool, console: Console) -> None:
    """Remove one sweep, or everything that no sweep needs.

    Args:
        root: Storage root.
        sweep: A sweep to remove whole; None: Ray's scratch files, unused prepared models and unfinished
            files.
        yes: Remove; otherwise only say what would go.
        console: Where to say it.

    Raises:
        UserError: There is no such sweep, or a driver is running one that would be touched.
    """
    going = [open_sweep(root, sweep)[0].path] if sweep else unused(root)
    names = [sweep] if sweep else sweep_names(root)
    with ExitStack() as locks:
        if yes:
            for name in names:
                locks.enter_context(
                    SweepFolder(root, name).locked()
                )  # nothing goes while a driver may still read it
        for path in going:
            console.print(
                f"{'removing' if yes else 'would remove'} {path} ({size_mib(path):.1f} MiB)",
                highlight=False,
                soft_wrap=True,
            )
            if yes:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not going:
        console.print("nothing to remove", highlight=False)
    elif not yes:
        console.print("give --yes to do it", highlight=False)


def unused(root: Path) -> list[Path]:
    """Ray's scratch folders of all sweeps, and models and measurements that no sweep names."""
    folders = [SweepFolder(root, name) for name in sweep_names(root)]
    used = {
        Path(part).name
        for folder in folders
        for baseline in read_baselines(folder).values()
        for part in (baseline.folder, baseline.measurement)
    }
    models = root / "models"
    # The initial weights are cheap to make again, and no sweep reads them once its models are there.
    spare = sorted(path for path in models.iterdir() if path.name not in used) if models.is_dir() else []
    return [folder.tune for folder in folders if folder.tune.is_dir()] + spare


def drop_unfinished(folder: SweepFolder, records: Iterable[TrialRecord]) -> None:
    """Remove what ended trials would have gone on from, and weights that an attempt which died has half
    written.

    A lane that had lost its driver may have written some after their end.
    """
    for record in records:
        if record.ended:
            for path in (folder.checkpoint(record.trial_id), *folder.half_written_weights(record.trial_id)):
                shutil.rmtree(path, ignore_errors=True)


def size_mib(path: Path) -> float:
    """Size of a file or folder in MiB."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1024**2
