"""Prints recomputed scores of an evaluation log as tables, and returns the same as JSON."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console

from orchestrator.evaluation_logs.scores import Scores
from orchestrator.table import Column, Table
from orchestrator.terminal.rich_tables import rich_table, say


def show_scores(scores: Scores, console: Console) -> None:
    """Prints OpenUnlearning's and Lethe's aggregates as tables.

    A line follows for each aggregate that could not be recomputed, or that was recomputed with a restriction.
    """
    published = _published(scores)
    for table in score_tables(scores):
        console.print(rich_table(table))
    notes = {name: recomputed.note for name, recomputed in scores.published.items() if recomputed.note}
    # A note on a published aggregate is more precise than what Lethe's metric of the same name lacks.
    notes |= {name: note for name, note in scores.missing.items() if name not in notes}
    for name, note in notes.items():
        verb = "not recomputed" if published.get(name) is None else "recomputed"
        say(console, f"{name}: {verb}: {note}")


def score_tables(scores: Scores) -> list[Table]:
    """Returns a table of OpenUnlearning's aggregates and one of Lethe's; one without a row is left out."""
    published = _published(scores)
    tables = [
        _table("by OpenUnlearning's definitions", sorted(published), published, scores.logged_published),
        _table("by Lethe's definitions", scores.ours, scores.ours, scores.logged_ours),
    ]
    return [table for table in tables if table.rows]


def _published(scores: Scores) -> dict[str, float | None]:
    """Returns OpenUnlearning's aggregates, and its membership inference attacks by split, by name."""
    values = {name: recomputed.value for name, recomputed in scores.published.items()}
    for name, means in scores.splits.items():
        values |= {f"{name}.{split}": mean for split, mean in means.items()}
    return values


def _table(
    title: str,
    names: Iterable[str],
    values: Mapping[str, float | None],
    logged: Mapping[str, float | None],
) -> Table:
    """Returns a table of recomputed values, beside the file's own values if it holds any."""
    number = "{:.6g}".format
    columns = [Column("metric"), Column("recomputed", number, right=True)]
    if not logged:
        return Table(columns, [[name, values[name]] for name in names], title=title)
    columns += [Column("in the file", number, right=True), Column("difference", _difference, right=True)]
    rows = []
    for name in names:
        value, own = values[name], logged.get(name)
        difference = None
        if value is not None and own is not None:
            # Equal infinities have no difference, although their subtraction is NaN.
            difference = 0.0 if value == own else value - own
        rows.append([name, value, own, difference])
    return Table(columns, rows, title=title)


def _difference(difference: float) -> str:
    return f"{difference:.1e}" if difference else "0"


def scores_json(scores: Scores) -> dict[str, Any]:
    """Returns the scores as `lethe score --json` prints them.

    Returns:
        `openunlearning` and `lethe` by name of the metric, `mia_splits` by attack and split, and
        `not_recomputed` with the reason for each metric without a value. A value is null if it could not be
        computed or is not finite.
    """
    reasons = {name: found.note for name, found in scores.published.items() if found.value is None}
    return {
        "openunlearning": {name: _finite(found.value) for name, found in scores.published.items()},
        "lethe": {name: _finite(value) for name, value in scores.ours.items()},
        "mia_splits": {
            name: {split: _finite(mean) for split, mean in means.items()}
            for name, means in scores.splits.items()
        },
        "not_recomputed": {"openunlearning": reasons, "lethe": dict(scores.missing)},
    }


def _finite(value: float | None) -> float | None:
    # Python's json would write NaN and Infinity, which are not JSON.
    return value if value is not None and math.isfinite(value) else None
