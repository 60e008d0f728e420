"""Recognises that the disk is full, whoever noticed it, and says what to do."""

import errno
import re
from collections.abc import Iterator

from search_spaces.user_errors import UserError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
# Libraries in Rust and C raise no OSError for it, and Ray and Tune pass errors on as text.
WORDS = re.compile(
    r"(?:No space left on device|Disk quota exceeded|database or disk is full)(?:: '(?P<file>[^'\n]+)')?"
)


def full_disk(error: BaseException) -> UserError | None:
    """What to tell about an error that came of a full disk; None about any other."""
    for link in _chain(error):
        words = WORDS.search(str(link))
        if words or (isinstance(link, OSError) and link.errno in NO_ROOM):
            place = words["file"] if words else None
            remedy = "make room and run the same command again: what had ended is kept"
            return UserError("no space left on device", file=place, remedy=remedy)
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
