"""The folder of a sweep: the paths of its files, the lock of its driver, and opening a sweep by its name."""

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
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable that Ray sets for the command of a job, and nowhere else."""
CHANGEABLE = {"search.trials", "resources.checkpoint_steps", "tracking.system_metrics_s"}
"""Settings that may differ from one start of a sweep to the next, besides its budget."""
# Ray unpacks a job's upload into a folder named by its content. The same file has another path in a resumed
# job if any other file of the upload has changed.
_UPLOAD = re.compile(r"^/.*/_ray_pkg_[0-9a-f]+(?=/)")


def storage_root(given: Path | None) -> Path:
    """Returns the folder of all sweeps: the given one, `$LETHE_STORAGE`, or `./lethe-runs`.

    Inside a Ray job the default is `~/lethe-runs`, and a relative folder is refused: the job starts in a copy
    of its working directory that Ray deletes after the job.

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
        """Folder of the sweep."""
        return self.root / self.name

    @property
    def settings(self) -> Path:
        """The resolved settings, with which `lethe run` compares its own before it resumes."""
        return self.path / "sweep.json"

    @property
    def journal(self) -> Path:
        """Optuna's journal, the source of truth about trials: the report and MLflow are derived from it."""
        return self.path / "study.journal"

    @property
    def models(self) -> Path:
        """Prepared models and measurements, named by content, which all sweeps of the root share."""
        return self.root / "models"

    @property
    def baselines(self) -> Path:
        """Paths of the models and measurements of this sweep's baselines, as JSON."""
        return self.path / "baselines.json"

    @property
    def tune(self) -> Path:
        """Ray Tune's own state, which is not needed after a run."""
        return self.path / "ray"

    @property
    def stop_request(self) -> Path:
        """File whose existence makes the driver that runs this sweep stop it."""
        return self.path / "stop"

    @property
    def driver_log(self) -> Path:
        """Log of the libraries' messages while the sweep ran."""
        return self.path / "driver.log"

    def trial(self, trial_id: str) -> Path:
        """Returns the folder of one trial."""
        return self.path / "trials" / trial_id

    def weights(self, trial_id: str) -> Path:
        """Returns the folder of a trial's weights, with a folder `rung<number>` per rung on the front."""
        return self.trial(trial_id) / "weights"

    def kept_weights(self, trial_id: str) -> list[Path]:
        """Returns the folders of the rungs whose weights are complete."""
        folders = self.weights(trial_id).glob("rung*")
        return [folder for folder in folders if folder.name.removeprefix("rung").isdigit()]

    def half_written_weights(self, trial_id: str) -> list[Path]:
        """Returns the folders of weights that a worker is writing, or was writing when it died."""
        return list(self.weights(trial_id).glob("rung*.partial"))

    def checkpoint(self, trial_id: str) -> Path:
        """Returns the checkpoint from which a trial resumes after a crash, removed when the trial ends."""
        return self.trial(trial_id) / "checkpoint"

    def trial_log(self, trial_id: str) -> Path:
        """Returns the trial's log, which `lethe logs` prints."""
        return self.trial(trial_id) / "log.txt"

    def trial_system_metrics(self, trial_id: str) -> Path:
        """Returns the file of the workers' system metrics, one JSON line per sample.

        It exists only if `tracking.system_metrics_s` is on.
        """
        return self.trial(trial_id) / "system_metrics.jsonl"

    def is_locked(self) -> bool:
        """Returns whether a driver is running this sweep now."""
        # The lock itself is the test: a process id in a file would outlive a killed driver.
        lock = FileLock(self.path / "driver.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the sweep's lock, so that no other driver runs the sweep meanwhile.

        The lock ends with the process, also if the process is killed.

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
        """Calls `create` under the lock and holds the lock for the block; yields the result of `create`.

        A driver that is refused has changed nothing.

        Raises:
            UserError: Another driver runs this sweep, or `create` refuses it.
        """
        # The folder has to exist before the lock, which is a file in it.
        self._make_writable(file)
        with self.locked():
            yield self.create(sweep, file)

    def create(self, sweep: SweepSettings, file: str) -> bool:
        """Creates the folder, or checks that it holds the same sweep.

        Until the first trial has begun, changed settings replace the stored ones. A sweep that could not
        start because of a wrong setting (too many workers, for example) is thus corrected under its name.

        Args:
            sweep: Resolved settings.
            file: The sweep file, for messages.

        Returns:
            Whether the sweep existed already.

        Raises:
            UserError: The folder cannot be written, or holds a sweep of that name with other settings.
        """
        self._make_writable(file)
        if not self.settings.exists():
            write_json(self.settings, sweep.model_dump(mode="json"))
            return False
        stored = _with_new_defaults(json.loads(self.settings.read_text()))
        changes = differences(_outside_uploads(stored), _outside_uploads(sweep.model_dump(mode="json")))
        # More trials or a larger budget make the same sweep longer, and checkpoints and system metrics change
        # no result. Any other change would mix results that cannot be compared in one study.
        changes = {
            key: pair
            for key, pair in changes.items()
            if key not in CHANGEABLE and not key.startswith("budget.")
        }
        if changes and not (self.path / "trials").exists():
            # The journal holds the old search space, but no trial yet.
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
            # A folder may exist and still refuse new files: a read-only mount, or another user's folder.
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
    """Opens a sweep by its name.

    Returns:
        The sweep's folder, and its settings with objectives filled in.

    Raises:
        UserError: There is no such sweep (the message lists the sweeps that exist), or another version of
            Lethe wrote it.
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
    """Returns the names of the sweeps under a storage root, sorted."""
    # Folders of follow-ups, such as `audits/NAME` and `reproductions/NAME`, lie one level deeper.
    return sorted(path.parent.name for path in root.glob("*/sweep.json"))


def differences(old: Any, new: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Returns the dotted keys whose values differ, with both values; the value of a missing key is None."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found: dict[str, tuple[Any, Any]] = {}
        for key in old.keys() | new.keys():
            found |= differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
        return found
    return {} if old == new else {prefix: (old, new)}


def _with_new_defaults(stored: Any) -> Any:
    """Returns stored settings as this version of Lethe would write them: new keys get their defaults."""
    try:
        return SweepSettings.model_validate(stored).model_dump(mode="json")
    except ValidationError:
        # The comparison with the new settings then shows which stored key this version no longer knows.
        return stored


def _outside_uploads(value: Any) -> Any:
    """Replaces the folder of a Ray job's upload in all paths by a placeholder: it differs between jobs."""
    if isinstance(value, Mapping):
        return {key: _outside_uploads(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_outside_uploads(inner) for inner in value]
    return _UPLOAD.sub("(upload)", value) if isinstance(value, str) else value
