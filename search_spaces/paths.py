"""Resolves paths from settings and options, and refuses those that the file system cannot access."""

from pathlib import Path

from search_spaces.user_errors import UserError

# OSError: the path is too long, or may not be read. RuntimeError: a loop of symbolic links, or an unknown
# home directory. ValueError: the path contains a NUL character.
_REFUSALS = (OSError, RuntimeError, ValueError)


def resolved(path: str, key: str | None = None) -> Path:
    """Returns the absolute path; the file need not exist.

    Args:
        path: The path; a relative one starts in the working directory of lethe.
        key: The setting or option that holds the path, for messages.

    Raises:
        UserError: The path cannot be accessed.
    """
    try:
        found = Path(path).expanduser().resolve()
        # Only this call fails for a name that is too long, or a folder that may not be read.
        found.exists()
        return found
    except _REFUSALS as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(
            f"is not a usable path: {why}",
            key=key,
            value=path,
            remedy="give a path that exists and may be read",
        ) from error


def exists(path: str) -> bool:
    """Returns whether the path exists; False if it cannot be accessed."""
    try:
        return Path(path).exists()
    except _REFUSALS:
        return False


def is_local(path: str) -> bool:
    """Returns whether a text is a local path and not a hub id: it looks like a path, or it exists."""
    return path.startswith((".", "/", "~")) or exists(path)
