"""Provenance of a sweep as plain text without credentials: identity, versions, git state and settings."""

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
    """Returns the versions of the packages that results depend on, and the git state of Lethe's own code.

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
    """Returns the commit of the checkout that tracks a file, and whether the checkout was changed since.

    Args:
        file: A source file. A file that git ignores, such as one in a virtual environment, has no commit.

    Returns:
        `git.commit`; if there is a commit, also `git.dirty` and MLflow's own tag for the commit.
    """
    commit = _git(file.parent, "rev-parse", "HEAD")
    # A virtual environment may lie in a checkout of something else, whose commit says nothing about Lethe.
    if commit is None or _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return {"git.commit": "none"}
    dirty = str(bool(_git(file.parent, "status", "--porcelain"))).lower()
    return {"git.commit": commit, "git.dirty": dirty, "mlflow.source.git.commit": commit}


def sweep_identity(folder: Path) -> str:
    """Returns the random id of a sweep, and creates it at the sweep's first start.

    The id distinguishes the sweep from others of the same name on a shared MLflow server, and from an earlier
    one in the same folder that `lethe clean` removed.

    Args:
        folder: The sweep's folder, which keeps the id in the file `sweep_id`.
    """
    file = folder / "sweep_id"
    if not file.is_file():
        write_text(file, uuid.uuid4().hex)
    return file.read_text()


def redacted(text: str) -> str:
    """Replaces user names, passwords and tokens of every URI in a text by `***`."""
    # Passwords may hold an `@` themselves, so everything up to the last one before the path is replaced.
    text = re.sub(r"(?<=://)[^/\s'\"]+@", "***@", text)
    return re.sub(r"(?i)([?&](?:password|passwd|pwd|token|secret|api_?key)=)[^&\s'\"]+", r"\1***", text)


def flattened(config: Mapping[str, Any]) -> dict[str, str]:
    """Flattens nested settings into dotted keys with text values.

    Lists, and the domains below `space`, are not flattened: their values are JSON.
    """
    return dict(_leaves(config, ""))


def as_text(value: Any) -> str:
    """Returns text unchanged, and any other value as JSON."""
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
        # Git is missing, or the file system hangs: a sweep must not fail for want of a tag.
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
