"""Builds the request of a Ray job that runs one sweep: command line, upload and job id, without any secret.

Does not import Ray.
"""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from search_spaces.loading.loader import find_sweep_file
from search_spaces.user_errors import UserError

# Patterns as in a .gitignore. Ray uploads all other files to a place that every user with the token can read.
EXCLUDES = (
    "lethe-runs/",
    ".git/",
    ".venv*/",
    "venv/",
    "__pycache__/",
    ".*_cache/",
    "*.egg-info/",
    ".env",
    ".netrc",
    "*.pem",
)
_SECRET_PARAMETER = re.compile(r"[?&](?:password|passwd|pwd|token|secret|api_?key)=", re.IGNORECASE)
_URI = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://\S+")


@dataclass(frozen=True)
class JobRequest:
    """One `lethe run` on a cluster, with all its options.

    Args:
        name: Name of the sweep.
        file: Sweep file relative to `working_dir`, or the bare name of a shipped file.
        working_dir: Folder that is uploaded, and in which the job starts.
        overrides: Overrides of settings, each `dotted.key=value`.
        storage: Folder of all sweeps on the cluster; None leaves it to the cluster's environment.
        tracking_uri: MLflow server or store; None leaves it to the cluster's environment.

    Raises:
        UserError: A secret would be stored in Ray's job records, or `storage` would be lost with the job.
    """

    name: str
    file: str
    working_dir: Path
    overrides: tuple[str, ...] = ()
    storage: str | None = None
    tracking_uri: str | None = None

    def __post_init__(self) -> None:
        if self.tracking_uri is not None:
            refuse_secrets(
                self.tracking_uri,
                "--tracking-uri",
                "put MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the cluster's environment",
            )
        for override in self.overrides:
            refuse_secrets(override, "--set", "put the secret in the cluster's environment")
        if self.storage is not None and not self.storage.startswith(("/", "~")):
            raise UserError(
                "a relative folder would lie in the job's copy of the working directory, and be lost with it",
                key="--storage",
                value=self.storage,
                remedy="give an absolute folder on the cluster's shared storage",
            )

    @property
    def entrypoint(self) -> str:
        """The shell command of the job."""
        words = ["lethe", "run", self.file, "--name", self.name]
        for override in self.overrides:
            words += ["--set", override]
        if self.storage is not None:
            words += ["--storage", self.storage]
        if self.tracking_uri is not None:
            words += ["--tracking-uri", self.tracking_uri]
        return shlex.join(words)

    @property
    def runtime_env(self) -> dict[str, Any]:
        """Ray's runtime environment of the job: uploaded files, but neither packages nor variables.

        Packages would be installed again for every job, and torch alone is gigabytes and might not fit the
        GPU driver. Variables are visible to every user who can list jobs.
        """
        return {"working_dir": str(self.working_dir), "excludes": list(EXCLUDES)}


def file_in_job(file: str, working_dir: Path) -> str:
    """Returns the name of a sweep file within the job.

    Args:
        file: The file as given: a local path, or the bare name of a shipped file.
        working_dir: The folder that is uploaded.

    Raises:
        UserError: The file does not exist, or lies outside the uploaded folder.
    """
    found = find_sweep_file(Path(file)).resolve()
    # A shipped file is found by its bare name on the cluster too, where Lethe is installed.
    if not Path(file).is_file():
        return Path(file).name
    if not found.is_relative_to(working_dir.resolve()):
        raise UserError(
            "the sweep file is not in the folder that is uploaded",
            file=file,
            key="--working-dir",
            value=str(working_dir),
            remedy=f"give --working-dir {shlex.quote(str(found.parent))}, or copy the file",
        )
    return found.relative_to(working_dir.resolve()).as_posix()


def next_job_id(name: str, existing: Iterable[str | None]) -> str:
    """Returns a job id that this sweep has not yet used on the cluster.

    Ray refuses a job id that it has seen before, so every resumption needs its own id.
    """
    return f"lethe-{name}-{max((job_number(name, job_id) for job_id in existing), default=0) + 1}"


def job_number(name: str, job_id: str | None) -> int:
    """Returns the number of a job of sweep `name`, counted from 1; 0 for a job of another sweep."""
    match = re.fullmatch(rf"lethe-{re.escape(name)}-([0-9]+)", job_id or "")
    return int(match[1]) if match else 0


def refuse_secrets(text: str, key: str, remedy: str) -> None:
    """Raises if a text contains a URI with a password or a token.

    Ray stores command lines, and shows them to every user who lists jobs.

    Raises:
        UserError: The text contains such a URI; the message does not repeat it.
    """
    for uri in _URI.findall(text):
        try:
            parts = urlsplit(uri)
        except ValueError:
            continue
        # In an HTTP URI a user name without a password is usually a token. Databases accept a user name
        # alone.
        named = parts.username is not None and parts.scheme in ("http", "https")
        if named or parts.password is not None or _SECRET_PARAMETER.search(uri):
            raise UserError(
                f"a URI with a password or token in it ({parts.scheme}://***) would be kept in the job's"
                " records",
                key=key,
                remedy=remedy,
            )
