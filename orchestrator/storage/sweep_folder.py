"""Where a sweep keeps its files, who may write them, and how it is found again."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError, did_you_mean
from trainables.durable_files import write_json

STORAGE_VARIABLE = "LETHE_STORAGE"
DEFAULT_STORAGE = "lethe-runs"
# Ray sets it for the command of a job, and nowhere else.
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
CHANGEABLE = {"search.trials", "resources.checkpoint_steps", "tracking.system_metrics_s"}
"""Settings that may differ from one start of a sweep to the next, beside its budget."""
# Ray unpacks a job's files into a folder named by their content, so that a resumed job finds the same file
# elsewhere.
_UPLOAD = re.compile(r"^/.*/_ray_pkg_[0-9a-f]+(?=/)")


def storage_root(given: Path | None) -> Path:
    """The folder of all sweeps: as given, or `$LETHE_STORAGE`, or `./lethe-runs`; inside a Ray job
    `~/lethe-runs`.

    A job starts in a copy of its working directory that goes with the job, so that nothing relative to it
    would be found again.

    Raises:
        UserError: A relative folder was given inside a Ray job.
    """
    chosen = given or os.environ.get(STORAGE_VARIABLE)
    if JOB_VARIABLE not in os.environ:
        return Path(chosen or DEFAULT_STORAGE).expanduser().resolve()
    folder = Path(chosen or f"~/{DEFAULT_STORAGE}").expanduser()
    if not folder.is_absolute():
        raise UserError(
            "a relative folder would lie in the job's copy of the working directory, and be lost with it",
            key="--storage" if given else STORAGE_VARIABLE,
            value=str(chosen),
            remedy="give an absolute folder that all nodes of the cluster share",
        )
    return folder.resolve()


@dataclass(frozen=True)
class SweepFolder:
    """The files of one sweep under a storage root."""

    root: Path
    name: str

    @property
    def path(self) -> Path:
        """The sweep's own folder."""
        return self.root / self.name

    @property
    def settings(self) -> Path:
        """The resolved settings: what `run` compares with before it resumes."""
        return self.path / "sweep.json"

    @property
    def journal(self) -> Path:
        """Optuna's journal: the only truth about trials."""
        return self.path / "study.journal"

    @property
    def models(self) -> Path:
        """Prepared models and their measurements, shared by the sweeps of one storage root, named by
        content."""
        return self.root / "models"

    @property
    def baselines(self) -> Path:
        """Where this sweep's original and retrained models and their measurements lie."""
        return self.path / "baselines.json"

    @property
    def tune(self) -> Path:
        """Ray's own bookkeeping; nothing of value is in it."""
        return self.path / "ray"

    @property
    def stop_request(self) -> Path:
        """Asks the driver that runs this sweep to end it, by being there."""
        return self.path / "stop"

    @property
    def driver_log(self) -> Path:
        """What libraries said while the sweep ran."""
        return self.path / "driver.log"

    def trial(self, trial_id: str) -> Path:
        """Folder of one trial."""
        return self.path / "trials" / trial_id

    def weights(self, trial_id: str) -> Path:
        """Unlearned weights of one trial, one folder `rung<number>` for each rung on the front."""
        return self.trial(trial_id) / "weights"

    def kept_weights(self, trial_id: str) -> list[Path]:
        """Folders of the rungs whose weights are there, unfinished ones left out."""
        return [
            path for path in self.weights(trial_id).glob("rung*") if path.name.removeprefix("rung").isdigit()
        ]

    def half_written_weights(self, trial_id: str) -> list[Path]:
        """Folders of weights that somebody writes, or wrote when they died."""
        return list(self.weights(trial_id).glob("rung*.partial"))

    def checkpoint(self, trial_id: str) -> Path:
        """What a running trial goes on from when its workers or the driver died; gone when it has ended."""
        return self.trial(trial_id) / "checkpoint"

    def trial_log(self, trial_id: str) -> Path:
        """What `lethe logs` prints."""
        return self.trial(trial_id) / "log.txt"

    def trial_system_metrics(self, trial_id: str) -> Path:
        """What its workers measured of themselves, one JSON line each; there where
        `tracking.system_metrics_s` is on."""
        return self.trial(trial_id) / "system_metrics.jsonl"

    def is_locked(self) -> bool:
        """Whether a driver is running this sweep now."""
        lock = FileLock(self.path / "driver.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other drivers out; the lock goes with the process, also when it is killed.

        Raises:
            UserError: Another driver runs this sweep.
        """
        lock = FileLock(self.path / "driver.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"another driver is running sweep {self.name!r}",
                key="name",
                value=self.name,
                remedy="wait for it to end, watch it with `lethe status`, or give another --name",
            ) from error
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def opened(self, sweep: SweepSettings, file: str) -> Iterator[bool]:
        """`create` under the lock, held as long as the caller works: a driver that is refused has changed
        nothing."""
        self._make_writable(file)
        with self.locked():
            yield self.create(sweep, file)

    def create(self, sweep: SweepSettings, file: str) -> bool:
        """Make the folder, or check that it holds the same sweep.

        Until the first trial has begun, changed settings replace the stored ones: whoever mends a setting
        that stopped the start (too many workers, say) need not find a new name.

        Args:
            sweep: Resolved settings.
            file: The sweep file, for messages.

        Returns:
            Whether the sweep was there already.

        Raises:
            UserError: The folder cannot be written, or holds a sweep of that name with other settings.
        """
        self._make_writable(file)
        if not self.settings.exists():
            write_json(self.settings, sweep.model_dump(mode="json"))
            return False
        stored = _with_new_defaults(json.loads(self.settings.read_text()))
        changes = differences(_outside_uploads(stored), _outside_uploads(sweep.model_dump(mode="json")))
        # With more trials or a larger budget it is the same sweep, longer; checkpoints and system metrics
        # change no result; everything else would mix unlike results in one study.
        changes = {
            key: pair
            for key, pair in changes.items()
            if key not in CHANGEABLE and not key.startswith("budget.")
        }
        if changes and not (self.path / "trials").exists():
            self.journal.unlink(missing_ok=True)
            write_json(self.settings, sweep.model_dump(mode="json"))
            return False
        if changes:
            lines = "\n".join(f"  {key}: {old!r} -> {new!r}" for key, (old, new) in sorted(changes.items()))
            raise UserError(
                f"a sweep of this name exists with other settings:\n{lines}",
                file=file,
                key="name",
                value=self.name,
                remedy="undo the change, or start a new sweep with --name",
            )
        write_json(self.settings, sweep.model_dump(mode="json"))
        return True

    def _make_writable(self, file: str) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"the sweep's folder cannot be written: {error.strerror}",
                file=file,
                key="--storage",
                value=str(self.path),
                remedy="give a folder that you may write with --storage or $LETHE_STORAGE",
            ) from error


def open_sweep(root: Path, name: str) -> tuple[SweepFolder, SweepSettings]:
    """Find a sweep by name.

    Raises:
        UserError: There is no such sweep; says which there are.
    """
    folder = SweepFolder(root, name)
    if not folder.settings.is_file():
        names = sweep_names(root)
        raise UserError(
            f"there is no sweep of this name in {root}.{did_you_mean(name, names)}",
            key="SWEEP",
            value=name,
            allowed=", ".join(names) or "none yet",
            remedy="give --storage where sweeps lie elsewhere",
        )
    try:
        return folder, SweepSettings.model_validate_json(folder.settings.read_text())
    except ValidationError as error:
        remedy = f"remove {folder.path}, or read it with the version of Lethe that wrote it"
        raise UserError(
            "this sweep was written by another version of Lethe", file=folder.settings, remedy=remedy
        ) from error


def sweep_names(root: Path) -> list[str]:
    """Names of the sweeps under a storage root."""
    return sorted(path.parent.name for path in root.glob("*/sweep.json"))


def differences(old: Any, new: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both values; a key that is missing counts as None."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found: dict[str, tuple[Any, Any]] = {}
        for key in old.keys() | new.keys():
            found |= differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
        return found
    return {} if old == new else {prefix: (old, new)}


def _with_new_defaults(stored: Any) -> Any:
    """Stored settings as this version of Lethe would write them: a key that is new in it has its default."""
    try:
        return SweepSettings.model_validate(stored).model_dump(mode="json")
    except ValidationError:
        return stored


def _outside_uploads(value: Any) -> Any:
    """Settings in which a file of a job's upload has the same path whatever else was uploaded."""
    if isinstance(value, Mapping):
        return {key: _outside_uploads(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_outside_uploads(inner) for inner in value]
    return _UPLOAD.sub("(upload)", value) if isinstance(value, str) else value
