"""Mending of files that take one line per event."""

from pathlib import Path


def drop_torn_line(journal: Path) -> None:
    """Cuts off a last line without an end.

    A kill or a full disk in mid-write leaves one; the next event would be glued to it and everything after be unreadable.

    Args:
        journal: A file that nobody writes to meanwhile.
    """
    with journal.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
