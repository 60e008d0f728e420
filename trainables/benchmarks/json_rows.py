"""Rows of JSON files, each with the place where it stands, so that a mistake is named with its line."""

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
    """`file, line 3`."""
    number: int
    """From 1: its line, or its place in an array or table."""
    values: dict[str, Any]
    remedy: str
    """What a right row looks like, for messages."""

    def text(self, key: str) -> str:
        """The text under a key.

        Raises:
            UserError: There is none, or it is empty.
        """
        return checked_text(self.value(key), key, self.place, self.remedy)

    def texts(self, key: str) -> tuple[str, ...]:
        """The list of texts under a key; none where there is no such key.

        Raises:
            UserError: It is no list, or something in it is no text.
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
        """Whatever is under a key.

        Raises:
            UserError: The row does not have it.
        """
        if key not in self.values:
            raise UserError(f"no key `{key}`", file=self.place, value=sorted(self.values), remedy=self.remedy)
        return self.values[key]


def read_lines(path: str, key: str, remedy: str) -> list[Row]:
    """The objects of a file of JSON lines. Blank lines are skipped.

    Args:
        path: The file.
        key: Setting that names it, for messages.
        remedy: What a line should look like.

    Raises:
        UserError: The file is missing or empty, or a line is malformed (with its number).
    """
    return _filled(list(_lines(_text(path, key), path, remedy)), path, key, remedy)


def read_file(path: str, key: str, remedy: str) -> list[Row]:
    """The objects of a file of JSON lines, or of one JSON array; arguments and errors as for `read_lines`."""
    text = _text(path, key)
    if not text.lstrip().startswith("["):
        return _filled(list(_lines(text, path, remedy)), path, key, remedy)
    values = _parsed(text, path, remedy)  # what starts so is a list
    return _filled(
        [_row(value, f"{path}, item {number}", number, remedy) for number, value in enumerate(values, 1)],
        path,
        key,
        remedy,
    )


def _text(path: str, key: str) -> str:
    try:
        # Editors on Windows put a byte order mark in front.
        return Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot be read: {error}",
            file=path,
            key=key,
            remedy="give a UTF-8 text file that exists; relative paths start where lethe is started",
        ) from error


def _lines(text: str, path: str, remedy: str) -> Iterator[Row]:
    # Not splitlines: JSON strings may hold line separators that it would cut at.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            yield _row(_parsed(line, place, remedy), place, number, remedy)


def _parsed(text: str, place: str, remedy: str) -> Any:
    try:
        return json.loads(text)
    # Beside malformed text: numbers of thousands of digits (ValueError) and thousands of brackets.
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
    """A value that must be a text with something in it.

    Raises:
        UserError: It is not.
    """
    if not isinstance(value, str) or not value.strip():
        raise UserError("not a text, or an empty one", file=place, key=key, value=value, remedy=remedy)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        # JSON's escapes can spell it, and tokenizers refuse it.
        remedy = "remove it: text that was cut inside a character holds one"
        raise UserError(
            f"character {error.start + 1} is half of a pair (a lone surrogate)",
            file=place,
            key=key,
            remedy=remedy,
        ) from error
    return value
