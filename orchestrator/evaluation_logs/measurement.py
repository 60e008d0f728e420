"""Reads Lethe's own measurements, the JSON files that `lethe prepare` and `lethe run` write for a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.evaluation_logs.evaluation_log import is_number
from search_spaces.user_errors import UserError
from trainables.metrics.aggregates import Items
from trainables.metrics.closed_world_mass import MASSES

NAMES = ("id", "subset", "generated")
"""Fields of items that hold text."""
LISTS = ("logp_nats",)
"""Fields of items that hold a list of numbers; fields in neither tuple hold a number or null."""


@dataclass(frozen=True)
class Measurement:
    """The measurement of one model."""

    file: str
    metrics: Mapping[str, float]
    """The aggregates in the file, with keys such as `validation/utility`; shown beside recomputed ones."""
    parts: Mapping[str, Items]
    """Part -> set -> items."""


def measurement(path: Path, contents: Mapping[str, Any]) -> Measurement:
    """Interprets the contents of a file as a measurement.

    Raises:
        UserError: The items are missing or malformed.
    """
    file = str(path)
    parts = _object(contents["items"], file, "items")
    for part, sets in parts.items():
        for name, items in _object(sets, file, f"items.{part}").items():
            place = f"items.{part}.{name}"
            if not isinstance(items, list):
                raise UserError(
                    "not a list of items", file=file, key=place, value=items, remedy="measure the model again"
                )
            for number, item in enumerate(items):
                # Only the closed world has a set named `questions`.
                _check_item(item, file, f"{place}[{number}]", closed_world=name == "questions")
    # Parts and sets may be empty one by one, but a file without any item has nothing to recompute.
    if not any(items for sets in parts.values() for items in sets.values()):
        raise UserError(
            "the measurement has no items", file=file, key="items", remedy="measure the model again"
        )
    metrics = {
        key: value for key, value in _object(contents["metrics"], file, "metrics").items() if is_number(value)
    }
    return Measurement(file, metrics, parts)


def _check_item(item: Any, file: str, place: str, *, closed_world: bool) -> None:
    item = _object(item, file, place)
    for name in ("id", "subset") if closed_world else ("id",):
        if not isinstance(item.get(name), str):
            raise UserError(
                "not a text",
                file=file,
                key=f"{place}.{name}",
                value=item.get(name),
                remedy="measure the model again",
            )
    # A question of the closed world always has all masses. Fields of other items are null if their example
    # lacks what the field needs, such as a paraphrase.
    needed = MASSES if closed_world else ()
    for field in dict.fromkeys((*needed, *item)):
        value = item.get(field)
        if field in LISTS:
            if not (isinstance(value, list) and all(map(is_number, value))):
                raise UserError(
                    "not a list of numbers",
                    file=file,
                    key=f"{place}.{field}",
                    value=value,
                    remedy="measure the model again",
                )
        elif field not in NAMES and not (is_number(value) or (value is None and field not in needed)):
            allowed = "a number" if field in needed else "a number or null"
            raise UserError("not a number", file=file, key=f"{place}.{field}", value=value, allowed=allowed)


def _object(value: Any, file: str, place: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UserError(
            "not an object",
            file=file,
            key=place,
            value=value,
            remedy="give a whole measurement, or measure the model again",
        )
    return value
