"""Recognises errors that were caused by a full disk, and converts them to a user error with a remedy."""

import errno
import re
from collections.abc import Iterator

from search_spaces.user_errors import UserError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
# Libraries in Rust and C do not raise OSError for a full disk, and Ray and Tune pass errors on as text.
WORDS = re.compile(
    r"(?:No space left on device|Disk quota exceeded|database or disk is full)(?:: '(?P<file>[^'\n]+)')?"
)


def full_disk(error: BaseException) -> UserError | None:
    """Returns the user error for an error that was caused by a full disk; None for any other error."""
    for link in _chain(error):
        words = WORDS.search(str(link))
        if words or (isinstance(link, OSError) and link.errno in NO_ROOM):
            place = words["file"] if words else None
            remedy = "make room and run the same command again: finished work is kept"
            return UserError("no space left on device", file=place, remedy=remedy)
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields the error, its cause, the cause of that, and so on."""
    # Chains of causes can contain cycles.
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
