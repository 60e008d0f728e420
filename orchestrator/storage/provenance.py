"""Where a sweep comes from, as plain text that may be shown to anybody: identity, versions, git state,
settings without passwords."""

import json
import platform
import re
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from trainables.durable_files import write_text

_PACKAGES = ("lethe", "torch", "ray", "deepspeed", "transformers", "datasets", "optuna", "mlflow")


def provenance() -> dict[str, str]:
    """Versions of what decides results, and the git state of Lethe's own code.

    Returns:
        Tags such as `version.torch` and `git.dirty`; `git.commit` is `none` outside a checkout.
    """
    tags = {"version.python": platform.python_version()}
    for name in _PACKAGES:
        try:
            tags[f"version.{name}"] = metadata.version(name)
        except metadata.PackageNotFoundError:
            tags[f"version.{name}"] = "none"
    return tags | git_state(Path(__file__))


def git_state(file: Path) -> dict[str, str]:
    """Commit of the checkout that tracks `file`, and whether anything in it was changed since.

    Args:
        file: A source file. One that git ignores, such as an installed package in a virtual environment, has
            no checkout.

    Returns:
        `git.commit`, and with a commit `git.dirty` and MLflow's own tag for it.
    """
    commit = _git(file.parent, "rev-parse", "HEAD")
    if commit is None or _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return {"git.commit": "none"}
    dirty = str(bool(_git(file.parent, "status", "--porcelain"))).lower()
    return {"git.commit": commit, "git.dirty": dirty, "mlflow.source.git.commit": commit}


def sweep_identity(folder: Path) -> str:
    """What tells a sweep from others of the same name on a shared server, or from one that was there before
    `lethe clean`.

    Args:
        folder: The sweep's folder, which keeps it in the file `sweep_id`.

    Returns:
        A random name, the same for every start of the sweep.
    """
    file = folder / "sweep_id"
    if not file.is_file():
        write_text(file, uuid.uuid4().hex)
    return file.read_text()


def redacted(text: str) -> str:
    """Hide user names, passwords and tokens of every URI in a text."""
    text = re.sub(r"(?<=://)[^/\s'\"]+@", "***@", text)
    return re.sub(r"(?i)([?&](?:password|passwd|pwd|token|secret|api_?key)=)[^&\s'\"]+", r"\1***", text)


def flattened(config: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings as dotted keys with text values; a searched domain and a list stay whole, as JSON."""
    return dict(_leaves(config, ""))


def as_text(value: Any) -> str:
    """Text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _leaves(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value and not key.startswith("space."):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, as_text(value)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        # No git on this machine, or a file system that does not answer: the sweep goes on without.
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
