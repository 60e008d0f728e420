"""What a person did wrong, in one message: file, key, the value given, what is allowed, what to do."""

import difflib
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, Self

LONGEST_VALUE = 100
HINT = " Did you mean "


class UserError(Exception):
    """A mistake that only its author can mend. The command line shows `str(error)` and no traceback.

    Args:
        message: what is wrong, without file, key and value.
        file: where it was read, with the line number after a colon where there is one.
        key: dotted key.
        value: what was given; None when nothing was.
        allowed: what would have been right.
        remedy: what to do about it.
    """

    def __init__(
        self,
        message: str,
        *,
        file: object = None,
        key: str | None = None,
        value: Any = None,
        allowed: str | None = None,
        remedy: str | None = None,
    ) -> None:
        # Only the message goes to Exception: pickle restores the rest from __dict__, so the error survives
        # the way from a Ray worker.
        super().__init__(message)
        self.message = message
        self.file = None if file is None else str(file)
        self.key = key
        self.value = value
        self.allowed = allowed
        self.remedy = remedy

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.detail()) if part)

    def detail(self) -> str:
        """The message without its file, for a list of problems in one file."""
        problem, hint, guess = self.message.partition(HINT)
        problem = problem.rstrip(".")
        if self.value is not None:
            problem += f" (given: {shown(self.value)})"
        sentences = [
            problem,
            (hint + guess).strip(),
            f"Allowed: {self.allowed}" if self.allowed else "",
            _capital(self.remedy or ""),
        ]
        text = " ".join(
            sentence if sentence[-1] in ".?!:" else sentence + "." for sentence in sentences if sentence
        )
        return f"{self.key}: {text}" if self.key else text

    def with_hashed_value(self) -> "UserError":
        """The same error with a hash in place of the value, which may be text that must stay out of logs."""
        value = None if self.value is None else hashed(self.value)
        return UserError(
            self.message, file=self.file, key=self.key, value=value, allowed=self.allowed, remedy=self.remedy
        )

    def in_file(self, file: object) -> "UserError":
        """The same error, placed in `file` unless it names a file already."""
        return UserError.joined([self], file)

    @classmethod
    def joined(cls, problems: Sequence["UserError"], file: object = None) -> Self:
        """One error for many problems of one file; a single problem keeps its fields."""
        if len(problems) == 1:
            only = problems[0]
            return cls(
                only.message,
                file=only.file or file,
                key=only.key,
                value=only.value,
                allowed=only.allowed,
                remedy=only.remedy,
            )
        lines = [
            f"- {problem.detail() if problem.file in (None, str(file)) else problem}" for problem in problems
        ]
        return cls("\n  ".join([f"{len(problems)} problems:", *lines]), file=file)


def did_you_mean(word: object, words: Iterable[object]) -> str:
    """` Did you mean "top_k"?` for the nearest of `words`, or an empty string: made to be appended to a
    message."""
    known = {str(candidate).casefold(): str(candidate) for candidate in words}
    close = difflib.get_close_matches(str(word).casefold(), known, n=1, cutoff=0.6)
    return f'{HINT}"{known[close[0]]}"?' if close else ""


def shown(value: object) -> str:
    """A value as a person would write it in YAML, cut when long."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def hashed(value: object) -> str:
    """What stands in place of a text: enough to find it again for whoever has it, and nothing of what it
    says."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return (
        f"sha256:{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:16]}, {len(text)}"
        " characters"
    )


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
