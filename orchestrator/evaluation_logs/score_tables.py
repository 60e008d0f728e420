"""Shows recomputed scores as tables and as JSON."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator.evaluation_logs.scores import Scores


def show_scores(scores: Scores, console: Console) -> None:
    """Prints OpenUnlearning's and Lethe's aggregates as tables.

    The value that the file itself holds is shown beside each recomputed value. A line follows for each
    aggregate that could not be recomputed, or that was recomputed with a restriction.
    """
    published = {name: recomputed.value for name, recomputed in scores.published.items()}
    published |= {
        f"{name}.{split}": mean for name, means in scores.splits.items() for split, mean in means.items()
    }
    if published:
        _show(
            "by OpenUnlearning's definitions", sorted(published), published, scores.logged_published, console
        )
    if scores.ours:
        _show("by Lethe's definitions", scores.ours, scores.ours, scores.logged_ours, console)
    notes = {name: recomputed.note for name, recomputed in scores.published.items() if recomputed.note}
    for name, note in [
        *notes.items(),
        *((name, note) for name, note in scores.missing.items() if name not in notes),
    ]:
        verb = "not recomputed" if published.get(name) is None else "recomputed"
        console.print(f"{name}: {verb}: {note}", highlight=False, soft_wrap=True)


def _show(
    title: str,
    names: Iterable[str],
    values: Mapping[str, float | None],
    logged: Mapping[str, float | None],
    console: Console,
) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("metric", no_wrap=True)
    table.add_column("recomputed", justify="right")
    if logged:
        table.add_column("in the file", justify="right")
        table.add_column("difference", justify="right")
    for name in names:
        value, own = values[name], logged.get(name)
        beside = (
            [
                _text(own),
                "" if value is None or own is None else f"{value - own:.1e}" if value != own else "0",
            ]
            if logged
            else []
        )
        table.add_row(name, _text(value), *beside)
    console.print(table)


def scores_json(scores: Scores) -> dict[str, Any]:
    """Converts scores to plain data for JSON.

    Returns:
        `openunlearning` and `lethe` by name of the metric, `mia_splits` by attack and split, and
        `not_recomputed` with the reason for each metric without a value. A value is null if it could not be
        computed or is not finite.
    """
    why = {name: recomputed.note for name, recomputed in scores.published.items() if recomputed.value is None}
    return {
        "openunlearning": {name: _finite(recomputed.value) for name, recomputed in scores.published.items()},
        "lethe": {name: _finite(value) for name, value in scores.ours.items()},
        "mia_splits": {
            name: {split: _finite(mean) for split, mean in means.items()}
            for name, means in scores.splits.items()
        },
        "not_recomputed": {"openunlearning": why, "lethe": dict(scores.missing)},
    }


def _finite(value: float | None) -> float | None:
    # Python's json would write NaN and Infinity, which are not JSON.
    return value if value is not None and math.isfinite(value) else None


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
