"""Keeps text out of what is written: `redact: true` in a sweep file."""

from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces.user_errors import hashed

NAMES = ("id", "subset", "part", "probe")
"""Fields of items that say which item it is, and nothing of its text."""


def without_text(
    items: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]],
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Items of a measurement with a hash in place of every text, such as what the model answered.

    Args:
        items: Part -> set -> items, as `evaluate_parts` gives them.

    Returns:
        The same, with numbers and names as they were.
    """
    return {
        part: {name: [_hashed(item) for item in members] for name, members in sets.items()}
        for part, sets in items.items()
    }


def _hashed(item: Mapping[str, Any]) -> dict[str, Any]:
    # Whatever is text, known here or not: a field that is added later must not leak.
    return {key: hashed(value) if not _is_plain(key, value) else value for key, value in item.items()}


def _is_plain(key: str, value: Any) -> bool:
    numbers = value if isinstance(value, list) else [value]
    return key in NAMES or value is None or all(isinstance(number, int | float) for number in numbers)
