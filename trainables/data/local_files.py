"""Your own forget and retain sets: JSON lines with `prompt` and `response`."""

import json
from pathlib import Path
from typing import Any

from search_spaces.data_settings import LocalFilesData
from search_spaces.user_errors import UserError
from trainables.data.examples import Benchmark, Example, make_benchmark, split_sets

REMEDY = 'write one object per line: {"prompt": "...", "response": "..."}'


def load_local_files(settings: LocalFilesData) -> Benchmark:
    """Read the files of `settings`.

    Keys other than `prompt`, `response` and `paraphrases` are left to their owners. Blank lines are skipped.

    Raises:
        UserError: A file is missing or empty, or a line is malformed (with its number).
    """
    forget = _read(settings.forget, "forget")
    retain = _read(settings.retain, "retain")
    sets = {"forget": forget, "retain": retain}
    if settings.holdout is not None:
        sets["holdout"] = _read(settings.holdout, "holdout")
    parts = split_sets(sets, settings.validation_share, settings.max_evaluation_items)
    return make_benchmark(forget, retain, forget + retain, retain, parts)


def _read(path: str, name: str) -> list[Example]:
    try:
        # Editors on Windows put a byte order mark in front.
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot be read: {error}",
            file=path,
            key=f"data.{name}",
            remedy="give a UTF-8 text file that exists; relative paths start where lethe is started",
        ) from error
    # Not splitlines: JSON strings may hold line separators that it would cut at.
    lines = enumerate(text.split("\n"), start=1)
    examples = [_example(line, path, f"{name}:{number}", number) for number, line in lines if line.strip()]
    if not examples:
        raise UserError("the file has no examples", file=path, key=f"data.{name}", remedy=REMEDY)
    return examples


def _example(line: str, path: str, example_id: str, number: int) -> Example:
    place = f"{path}, line {number}"
    try:
        row = json.loads(line)
    # Beside malformed text: numbers of thousands of digits (ValueError) and thousands of brackets.
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {error}", file=place, remedy=REMEDY) from error
    if not isinstance(row, dict):
        raise UserError("not a JSON object", file=place, value=row, remedy=REMEDY)
    paraphrases = row.get("paraphrases", [])
    if not isinstance(paraphrases, list):
        raise UserError("not a list of texts", file=place, key="paraphrases", value=paraphrases, remedy="write a list, or leave it out")
    return Example(
        example_id,
        _text(row, "prompt", place),
        _text(row, "response", place),
        tuple(_checked(text, f"paraphrases[{index}]", place) for index, text in enumerate(paraphrases)),
    )


def _text(row: dict[str, Any], key: str, place: str) -> str:
    if key not in row:
        raise UserError(f"no key `{key}`", file=place, value=sorted(row), remedy=REMEDY)
    return _checked(row[key], key, place)


def _checked(value: Any, key: str, place: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError("not a text, or an empty one", file=place, key=key, value=value, remedy=REMEDY)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        # JSON's escapes can spell it, and tokenizers refuse it.
        remedy = "remove it: text that was cut inside a character holds one"
        raise UserError(f"character {error.start + 1} is half of a pair (a lone surrogate)", file=place, key=key, remedy=remedy) from error
    return value
