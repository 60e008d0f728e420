"""Reads OpenUnlearning's evaluation logs.

Values are read from the per-item lists alone, and every error names the file and the key.
"""

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
    """The metrics of one evaluation, by their published names, with the values of each item.

    Methods take a `place`: the dotted path of the entry that holds `value_by_index`, such as
    `forget_Q_A_Prob` or `mia_min_k.holdout`.
    """

    file: str
    entries: Mapping[str, Any]

    def logged(self, place: str) -> float | None:
        """Returns the aggregate that the log itself holds; for display beside the recomputed one only."""
        value: Any = self._entry(place).get("agg_value")
        return float(value) if is_number(value) else None

    def holds(self, place: str) -> bool:
        """Returns whether the log has an entry at a place."""
        return self._find(place) is not None

    def column(self, place: str, field: str) -> dict[str, float]:
        """Reads one field of every item, reduced to one number per item.

        As in OpenUnlearning, a list is replaced by its mean, and an item with null is left out.

        Returns:
            Index of the item -> value.

        Raises:
            UserError: There are no items, an item lacks the field, or a value is neither a number nor a list
                of numbers.
        """
        return {index: float(np.mean(values)) for index, values in self.lists(place, field).items()}

    def lists(self, place: str, field: str) -> dict[str, list[float]]:
        """Reads one field of every item as a list; a single number becomes a list of one.

        Returns:
            Index of the item -> values.

        Raises:
            UserError: As for `column`.
        """
        found: dict[str, list[float]] = {}
        for index, item in self._items(place).items():
            key = f"{place}.{PER_ITEM}.{index}"
            # OpenUnlearning leaves items with null out of its aggregates too.
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
            # A missing field is an error, but a field with null is a value that could not be computed.
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
                remedy="give a log that has them: aggregates are recomputed and never copied",
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
        # Names of metrics may contain dots themselves, so the whole place is tried first.
        if place in self.entries:
            return self.entries[place]
        metric, _, split = place.rpartition(".")
        entry = self.entries.get(metric)
        return entry.get(split) if isinstance(entry, Mapping) else None


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        UserError: The file does not exist, cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError("no such file", file=path, remedy=f"give {KINDS}") from error
    except IsADirectoryError as error:
        raise UserError("this is a folder", file=path, remedy=_logs_in(path)) from error
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", file=path, remedy=f"give {KINDS}") from error
    # ValueError also covers bytes that are not UTF-8 and integers of thousands of digits; thousands of nested
    # brackets raise RecursionError.
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {error}", file=path, remedy=f"give {KINDS}") from error


def evaluation_log(path: Path, contents: Any) -> EvaluationLog:
    """Interprets the contents of a file as an evaluation log of OpenUnlearning.

    Raises:
        UserError: The contents are not an evaluation log.
    """
    # OpenUnlearning writes a summary with plain aggregates beside each log: a likely mistake, with a remedy
    # of its own.
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
    """Returns whether a value from JSON is a number that a float can represent."""
    # JSON integers have any size, but `float` of a very large one raises OverflowError. Booleans are integers
    # in Python.
    if isinstance(value, int) and not isinstance(value, bool):
        return value.bit_length() < sys.float_info.max_exp
    # NaN, as a diverged model logs it, counts as a number: the aggregates become NaN too.
    return isinstance(value, float)
