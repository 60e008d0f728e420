"""Rows of JSON files with their file and line, so that error messages can name them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces.user_errors import UserError


@dataclass(frozen=True)
class Row:
    """One object of a file or table."""

    place: str
    """File and line for messages: `file, line 3`."""
    number: int
    """Number of the row's line, or its index in an array or table; both from 1."""
    values: dict[str, Any]
    """Values by key."""
    remedy: str
    """Description of a valid row, for messages."""

    def text(self, key: str) -> str:
        """Return the text under a key.

        Raises:
            UserError: The key is missing, or its value is not a text or empty.
        """
        return checked_text(self.value(key), key, self.place, self.remedy)

    def texts(self, key: str) -> tuple[str, ...]:
        """Return the list of texts under a key; empty without the key.

        Raises:
            UserError: The value is not a list, or an element is not a text.
        """
        found = self.values.get(key, [])
        if not isinstance(found, list):
            raise UserError(
                "not a list of texts",
                file=self.place,
                key=key,
                value=found,
                remedy="write a list, or leave it out",
            )
        return tuple(
            checked_text(text, f"{key}[{index}]", self.place, self.remedy) for index, text in enumerate(found)
        )

    def value(self, key: str) -> Any:
        """Return the value under a key.

        Raises:
            UserError: The row does not have the key.
        """
        if key not in self.values:
            raise UserError(f"no key `{key}`", file=self.place, value=sorted(self.values), remedy=self.remedy)
        return self.values[key]


def read_lines(path: str, key: str, remedy: str) -> list[Row]:
    """Read the objects of a JSON Lines file. Blank lines are skipped.

    Args:
        path: The file.
        key: Setting that names the file, for messages.
        remedy: Description of a valid line, for messages.

    Raises:
        UserError: The file is missing or empty, or a line is malformed (with its number).
    """
    # A list, so that every malformed line is found before training starts.
    return _filled(list(_lines(_text(path, key), path, remedy)), path, key, remedy)


def read_file(path: str, key: str, remedy: str) -> list[Row]:
    """Read the objects of a JSON Lines file or of one JSON array; arguments are those of `read_lines`."""
    text = _text(path, key)
    # A line of a JSON Lines file is an object, so a bracket at the start means an array.
    if not text.lstrip().startswith("["):
        return _filled(list(_lines(text, path, remedy)), path, key, remedy)
    values = _parsed(text, path, remedy)
    return _filled(
        [_row(value, f"{path}, item {number}", number, remedy) for number, value in enumerate(values, 1)],
        path,
        key,
        remedy,
    )


def _text(path: str, key: str) -> str:
    try:
        # `utf-8-sig` removes the byte order mark that editors on Windows put in front.
        return Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot be read: {error}",
            file=path,
            key=key,
            remedy="give a UTF-8 text file that exists; relative paths start where lethe is started",
        ) from error


def _lines(text: str, path: str, remedy: str) -> Iterator[Row]:
    # Not `splitlines`, which also cuts at line separators (U+2028) that JSON strings may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            yield _row(_parsed(line, place, remedy), place, number, remedy)


def _parsed(text: str, place: str, remedy: str) -> Any:
    try:
        return json.loads(text)
    # Malformed text and numbers of thousands of digits give a ValueError, thousands of brackets a
    # RecursionError.
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {error}", file=place, remedy=remedy) from error


def _row(value: Any, place: str, number: int, remedy: str) -> Row:
    if not isinstance(value, dict):
        raise UserError("not a JSON object", file=place, value=value, remedy=remedy)
    return Row(place, number, value, remedy)


def _filled(rows: list[Row], path: str, key: str, remedy: str) -> list[Row]:
    if not rows:
        raise UserError("the file has no examples", file=path, key=key, remedy=remedy)
    return rows


def checked_text(value: Any, key: str, place: str, remedy: str) -> str:
    """Return a value if it is a text that is not blank.

    Raises:
        UserError: The value is no text, is blank, or holds a lone surrogate.
    """
    if not isinstance(value, str) or not value.strip():
        raise UserError("not a text, or an empty one", file=place, key=key, value=value, remedy=remedy)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        # JSON escapes can spell a lone surrogate, and tokenizers refuse it.
        remedy = "remove it: text that was cut inside a character holds one"
        raise UserError(
            f"character {error.start + 1} is half of a pair (a lone surrogate)",
            file=place,
            key=key,
            remedy=remedy,
        ) from error
    return value
