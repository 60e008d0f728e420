"""Paths as people write them: absolute, and refused where no file system takes them."""

from pathlib import Path

from search_spaces.user_errors import UserError

# Too long, a loop of links, no right to look (OSError, RuntimeError); a NUL inside (ValueError); a home that
# is not there (RuntimeError).
_REFUSALS = (OSError, RuntimeError, ValueError)


def resolved(path: str, key: str | None = None) -> Path:
    """The absolute path, whether something is there or not.

    Args:
        path: Relative ones start where lethe is started.
        key: What it is the value of, for messages.

    Raises:
        UserError: It cannot be looked at.
    """
    try:
        found = Path(path).expanduser().resolve()
        found.exists()  # a name that is too long, or a folder that may not be read, shows only here
        return found
    except _REFUSALS as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(
            f"is no usable path: {why}", key=key, value=path, remedy="give a path that exists and may be read"
        ) from error


def exists(path: str) -> bool:
    """Whether something is there; what cannot be looked at is not."""
    try:
        return Path(path).exists()
    except _REFUSALS:
        return False


def is_local(path: str) -> bool:
    """Whether a path or hub id means the local disk: it looks like a path, or it is there."""
    return path.startswith((".", "/", "~")) or exists(path)
