"""Replaces text by hashes in what workers write, for sweep files with `redact: true`."""

from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces.user_errors import hashed

NAMES = ("id", "subset", "part", "probe")
"""Fields of items that identify the item and hold nothing of its text."""

Item = Mapping[str, Any]


def redact_parts(parts: Mapping[str, Mapping[str, Sequence[Item]]]) -> dict[str, dict[str, list[Item]]]:
    """Return the items of a measurement with a hash in place of every text, such as the model's answers.

    Args:
        parts: Part -> set -> items: see `Measurement.items`.
    """
    return {part: {name: redact_items(items) for name, items in sets.items()} for part, sets in parts.items()}


def redact_items(items: Sequence[Item]) -> list[Item]:
    """Return items with a hash in place of every text; numbers and the fields in `NAMES` stay."""
    return [_redact_item(item) for item in items]


def _redact_item(item: Item) -> Item:
    # Every other field is hashed, known here or not: one that is added later must not leak.
    return {key: value if _is_plain(key, value) else hashed(value) for key, value in item.items()}


def _is_plain(key: str, value: Any) -> bool:
    numbers = value if isinstance(value, list) else [value]
    return key in NAMES or value is None or all(isinstance(number, int | float) for number in numbers)
