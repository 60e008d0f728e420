"""What is asked of a Ray cluster to run one sweep: command line, upload and job ids, without a secret in any
of them. Knows no Ray."""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from search_spaces.loading.loader import find_sweep_file
from search_spaces.user_errors import UserError

# Patterns as in a .gitignore. Ray uploads everything else, to where everybody with the token can read it.
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
    """One `lethe run` on a cluster, with everything it is told.

    Args:
        name: Name of the sweep.
        file: Sweep file relative to `working_dir`, or the bare name of a shipped one.
        working_dir: Folder that is uploaded and in which the job starts.
        overrides: `dotted.key=value` each.
        storage: Folder of all sweeps on the cluster; None leaves it to the cluster's environment.
        tracking_uri: MLflow server or store; None leaves it to the cluster's environment.

    Raises:
        UserError: A secret would be kept in Ray's records, or `storage` would be lost with the job.
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
        """What Ray unpacks for the job: files, and neither packages nor variables.

        Packages would be installed anew for every job (torch alone is gigabytes, and might not fit the
        driver); variables are shown to everybody who can list jobs.
        """
        return {"working_dir": str(self.working_dir), "excludes": list(EXCLUDES)}


def file_in_job(file: str, working_dir: Path) -> str:
    """How the job names a sweep file.

    Args:
        file: As given: a path here, or the bare name of a shipped file.
        working_dir: The folder that is uploaded.

    Raises:
        UserError: There is no such file, or it lies where it is not uploaded.
    """
    found = find_sweep_file(Path(file)).resolve()
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
    """A job id that this sweep has not had on the cluster: Ray refuses one twice, so that every resumption
    needs its own."""
    return f"lethe-{name}-{max((job_number(name, job_id) for job_id in existing), default=0) + 1}"


def job_number(name: str, job_id: str | None) -> int:
    """Which job of sweep `name` this is, from 1; 0 for a job of another sweep."""
    match = re.fullmatch(rf"lethe-{re.escape(name)}-([0-9]+)", job_id or "")
    return int(match[1]) if match else 0


def refuse_secrets(text: str, key: str, remedy: str) -> None:
    """Refuse a text with a password or token in a URI: Ray keeps command lines, and shows them to everybody
    who lists jobs.

    Raises:
        UserError: There is one; its message does not repeat it.
    """
    for uri in _URI.findall(text):
        try:
            parts = urlsplit(uri)
        except ValueError:
            continue
        # Over HTTP a user name alone is a token more often than not; databases take names without a password.
        named = parts.username is not None and parts.scheme in ("http", "https")
        if named or parts.password is not None or _SECRET_PARAMETER.search(uri):
            raise UserError(
                f"a URI with a password or token in it ({parts.scheme}://***) would be kept in the job's"
                " records",
                key=key,
                remedy=remedy,
            )
