"""Errors that the user can correct, in one message: file, key, given value, allowed values and remedy."""

import difflib
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, Self

# Longer values are cut: one may be a whole document, and the message has to fit on a screen.
LONGEST_VALUE = 100
# The hint is part of the message, because pydantic passes on nothing but the text of a ValueError.
HINT = " Did you mean "


class UserError(Exception):
    """An error that the user can correct. The command line shows `str(error)` and no traceback.

    Args:
        message: The problem, without file, key and value.
        file: The file in which the value was read, with the line number after a colon if it is known.
        key: The dotted key.
        value: The given value; None if no value was given.
        allowed: The allowed values.
        remedy: What the user can do.
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
        # Only the message is passed to Exception. Pickle restores the other fields from __dict__, so that the
        # error survives the transfer from a Ray worker.
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
        """Returns the message without its file, for a list of problems in one file."""
        # A hint (`did_you_mean`) is part of the message, but the given value must come before it.
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
        ended = [text if text[-1] in ".?!:" else f"{text}." for text in sentences if text]
        return ": ".join(part for part in (self.key, " ".join(ended)) if part)

    def with_hashed_value(self) -> "UserError":
        """Returns the error with a hash in place of its value, which may be text that must not be logged."""
        value = None if self.value is None else hashed(self.value)
        return UserError(
            self.message, file=self.file, key=self.key, value=value, allowed=self.allowed, remedy=self.remedy
        )

    def in_file(self, file: object) -> "UserError":
        """Returns the error with the name of a file, unless it names a file already."""
        return UserError.joined([self], file)

    @classmethod
    def joined(cls, problems: Sequence["UserError"], file: object = None) -> Self:
        """Joins the problems of one file to one error; a single problem keeps its fields."""
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
        # The file is in front of the whole message, so a problem repeats only the name of another file.
        texts = [
            problem.detail() if problem.file in (None, str(file)) else str(problem) for problem in problems
        ]
        return cls("\n  ".join([f"{len(problems)} problems:", *(f"- {text}" for text in texts)]), file=file)


def did_you_mean(word: object, words: Iterable[object]) -> str:
    """Returns a hint with the most similar word, such as ` Did you mean "top_k"?`, for the end of a message.

    The hint is empty if no word is similar.
    """
    # Compared without case, but shown as spelled in `words`.
    known = {str(candidate).casefold(): str(candidate) for candidate in words}
    close = difflib.get_close_matches(str(word).casefold(), known, n=1, cutoff=0.6)
    return f'{HINT}"{known[close[0]]}"?' if close else ""


def shown(value: object) -> str:
    """Formats a value as in YAML's flow style, shortened if it is long."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def hashed(value: object) -> str:
    """Returns a placeholder for a text: its hash and length, which reveal nothing of its contents.

    The owner of the text can find it by the hash.
    """
    # Model output may contain lone surrogates, which UTF-8 cannot encode.
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return f"sha256:{digest[:16]}, {len(text)} characters"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
