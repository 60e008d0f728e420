"""Reads OpenUnlearning's evaluation logs. Values come from the per-item lists alone, and every mistake names
its place."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from search_spaces.user_errors import UserError

KINDS = "TOFU_EVAL.json or MUSE_EVAL.json of OpenUnlearning, or a measurement of Lethe"
PER_ITEM = "value_by_index"


@dataclass(frozen=True)
class EvaluationLog:
    """The metrics of one evaluation by their published names, with the values of each item.

    A place is the dotted way to what holds `value_by_index`: `forget_Q_A_Prob`, or `mia_min_k.holdout`.
    """

    file: str
    entries: Mapping[str, Any]

    def logged(self, place: str) -> float | None:
        """The aggregate that the log itself holds: to stand beside ours, never to be computed with."""
        value: Any = self._entry(place).get("agg_value")
        return float(value) if is_number(value) else None

    def holds(self, place: str) -> bool:
        """Whether there is an entry at a place."""
        return self._find(place) is not None

    def column(self, place: str, field: str) -> dict[str, float]:
        """One field of every item by its index; the mean where an item has a list, left out where it has
        null, as OpenUnlearning does.

        Raises:
            UserError: There are no items, an item lacks the field, or it is no number and no list of numbers.
        """
        return {index: float(np.mean(values)) for index, values in self.lists(place, field).items()}

    def lists(self, place: str, field: str) -> dict[str, list[float]]:
        """The same without taking means: a number is a list of one."""
        found: dict[str, list[float]] = {}
        for index, item in self._items(place).items():
            key = f"{place}.{PER_ITEM}.{index}"
            if item is None:
                continue
            if not isinstance(item, dict) or field not in item:
                given = sorted(item) if isinstance(item, dict) else item
                raise UserError(
                    f"the item has no `{field}`",
                    file=self.file,
                    key=key,
                    value=given,
                    allowed=f'{{"{field}": a number}}',
                )
            value = item[field]
            numbers = value if isinstance(value, list) else [value]
            if value is None:
                continue
            if not numbers or not all(is_number(number) for number in numbers):
                raise UserError(
                    "not a number",
                    file=self.file,
                    key=f"{key}.{field}",
                    value=value,
                    allowed="a number, a list of numbers, or null",
                )
            found[index] = [float(number) for number in numbers]
        if not found:
            raise UserError(
                f"no item has a `{field}`", file=self.file, key=f"{place}.{PER_ITEM}", remedy="evaluate again"
            )
        return found

    def _items(self, place: str) -> Mapping[str, Any]:
        items = self._entry(place).get(PER_ITEM)
        key = f"{place}.{PER_ITEM}"
        if items is None:
            raise UserError(
                "the per-item values are missing",
                file=self.file,
                key=key,
                remedy="give a log that has them: aggregates in a log are not taken on trust",
            )
        if not isinstance(items, dict):
            raise UserError(
                "not an object of items by index",
                file=self.file,
                key=key,
                value=items,
                allowed='{"0": {...}, "1": {...}}',
            )
        return items

    def _entry(self, place: str) -> Mapping[str, Any]:
        entry = self._find(place)
        if not isinstance(entry, Mapping):
            problem = "the log lacks this metric" if entry is None else "not a metric with its items"
            raise UserError(
                problem, file=self.file, key=place, value=entry, allowed=f'{{"{PER_ITEM}": {{...}}}}'
            )
        return entry

    def _find(self, place: str) -> Any:
        if place in self.entries:
            return self.entries[place]
        metric, _, split = place.rpartition(".")
        entry = self.entries.get(metric)
        return entry.get(split) if isinstance(entry, Mapping) else None


def read_json(path: Path) -> Any:
    """The contents of a log.

    Raises:
        UserError: There is no such file, or it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError("no such file", file=path, remedy=f"give {KINDS}") from error
    except IsADirectoryError as error:
        raise UserError("this is a folder", file=path, remedy=_logs_in(path)) from error
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", file=path, remedy=f"give {KINDS}") from error
    # Beside malformed text: bytes that are no UTF-8, numbers of thousands of digits (both ValueError) and
    # thousands of brackets.
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {error}", file=path, remedy=f"give {KINDS}") from error


def evaluation_log(path: Path, contents: Any) -> EvaluationLog:
    """The contents of a file as an evaluation log.

    Raises:
        UserError: They are something else.
    """
    if (
        isinstance(contents, dict)
        and contents
        and all(is_number(value) or value is None for value in contents.values())
    ):
        remedy = f"give the evaluation beside it: {path.with_name(path.name.replace('SUMMARY', 'EVAL'))}"
        raise UserError(
            "this file holds aggregates only, without the values of the items",
            file=path,
            allowed=KINDS,
            remedy=remedy,
        )
    if not isinstance(contents, dict) or not any(_is_metric(value) for value in contents.values()):
        given = sorted(contents) if isinstance(contents, dict) else contents
        raise UserError("this JSON is not an evaluation log", file=path, value=given, remedy=f"give {KINDS}")
    for name, entry in contents.items():
        if not isinstance(entry, dict):
            raise UserError(
                "not a metric with its items",
                file=path,
                key=name,
                value=entry,
                allowed=f'{{"{PER_ITEM}": {{...}}}}',
            )
    return EvaluationLog(str(path), contents)


def _logs_in(folder: Path) -> str:
    logs = sorted(path.name for path in folder.glob("*_EVAL.json"))
    return f"give {folder / logs[0]}" if logs else f"give {KINDS}"


def _is_metric(value: Any) -> bool:
    return isinstance(value, dict) and ("agg_value" in value or PER_ITEM in value)


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a number that a float can hold."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value.bit_length() < sys.float_info.max_exp
    # NaN, which a diverged model leaves, is one too: aggregates carry it on.
    return isinstance(value, float)
