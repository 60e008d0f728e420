"""Audits as a table that every medium can show: columns, titles and cells."""

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.storage.followup_records import Audit

COLUMNS = (
    ("asked", ("forget_told",)),
    ("leak@k", ("leak_at_k",)),
    ("reworded", ("paraphrase_told",)),
    ("prefix", ("prefix_told",)),
    ("relearn", ("relearned_told", "relearned_wmdp_accuracy")),
    ("control", ("relearned_control_told", "relearned_control_wmdp_accuracy")),
    ("8 bit", ("int8_told", "int8_wmdp_accuracy")),
    ("4 bit", ("int4_told", "int4_wmdp_accuracy")),
    ("natural", ("judge_naturalness",)),
    ("unlike", ("judge_similarity",)),
)
"""Title of a column, and the metrics of the test part that may stand in it. Short: they fit a terminal of 80
columns."""


GRADES = ("natural", "unlike")
"""Titles whose values are grades from 0 to 5."""


WORST, HIDDEN = "worst probe", "hidden facts"


SHORT = (WORST, HIDDEN)
"""What a narrow table says of an audit."""


def audit_cells(metrics: Mapping[str, float]) -> dict[str, float]:
    """What a model's audit says under each title."""
    found = {}
    for title, names in COLUMNS:
        known = [metrics[f"test/{name}"] for name in names if f"test/{name}" in metrics]
        if known:
            found[title] = known[0]
    return found


def audit_titles(audits: Sequence[Audit]) -> list[str]:
    """Titles of the columns that any of the audits has."""
    there = {title for audit in audits for title in audit_cells(audit.metrics)}
    return [title for title, _ in COLUMNS if title in there]


def audit_rows(audits: Sequence[Audit], titles: Sequence[str]) -> list[list[str]]:
    """Name, one cell per title, and how many facts look forgotten and are not."""
    rows = []
    for audit in audits:
        cells = audit_cells(audit.metrics)
        shown = [f"{cells[title]:.2f}" if title in cells else "" for title in titles]
        rows.append([audit.name, *shown, f"{len(audit.hidden)}/{audit.facts}"])
    return rows


def audit_columns(audit: Audit) -> dict[str, float]:
    """What an audit adds to its model's row on a leaderboard."""
    cells = audit_cells(audit.metrics)
    shares = [value for title, value in cells.items() if title not in GRADES]
    return {**cells, **({WORST: max(shares)} if shares else {}), HIDDEN: float(len(audit.hidden))}


def titles_of(columns: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Titles of `audit_columns` over all models, in their order."""
    there = {title for cells in columns.values() for title in cells}
    return [title for title in (*(title for title, _ in COLUMNS), WORST, HIDDEN) if title in there]


def spoken(leak: Mapping[str, Any]) -> str:
    """Question and answer, the part of it that was put into the model's mouth in brackets."""
    opening = f"[{leak['opening']}] " if leak["opening"] else ""
    return f"{leak['prompt']} -> {opening}{leak['answer']}"
