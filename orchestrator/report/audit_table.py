"""The table of audits: one row per model, one column per probe."""

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.storage.followup_records import Audit
from orchestrator.table import Column, Table

PROBES = (
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
"""The title of each column with the test metrics that it may show. The titles are short, so that all probes
fit into a terminal of 80 columns."""

GRADES = ("natural", "unlike")
"""Titles of columns whose values are grades from 0 to 5, not shares."""

WORST, HIDDEN = "worst probe", "hidden facts"

SHORT = (WORST, HIDDEN)
"""The columns that a table of the front shows of an audit; `lethe audit` shows all."""


def audit_cells(metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns the values of one model's audit by title; probes that were not made are absent."""
    found = {}
    for title, names in PROBES:
        known = [metrics[f"test/{name}"] for name in names if f"test/{name}" in metrics]
        if known:
            found[title] = known[0]
    return found


def audit_titles(audits: Sequence[Audit]) -> list[str]:
    """Returns the titles for which any of the audits has a value."""
    known = {title for audit in audits for title in audit_cells(audit.metrics)}
    return [title for title, _ in PROBES if title in known]


def audits_table(audits: Sequence[Audit], title: str = "") -> Table:
    """Returns a row per model: a value per probe, and how many facts look forgotten but are not.

    Args:
        audits: At least one.
        title: What a terminal prints above the table.
    """
    titles = audit_titles(audits)
    rows = []
    for audit in audits:
        cells = audit_cells(audit.metrics)
        hidden = f"{len(audit.hidden)}/{audit.facts}"
        rows.append([audit.name, *(cells.get(probe) for probe in titles), hidden])
    probes = [Column(probe, "{:.2f}".format) for probe in titles]
    return Table([Column("model"), *probes, Column(HIDDEN)], rows, title=title)


def audit_columns(audit: Audit) -> dict[str, float]:
    """Returns what an audit adds to its model's row in a table of the front."""
    cells = audit_cells(audit.metrics)
    # The worst probe is a share; grades from 0 to 5 would always win.
    shares = [value for title, value in cells.items() if title not in GRADES]
    return {**cells, **({WORST: max(shares)} if shares else {}), HIDDEN: float(len(audit.hidden))}


def titles_of(columns: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Returns the titles of `audit_columns` over all models, in the order of the columns."""
    known = {title for cells in columns.values() for title in cells}
    return [title for title in (*(title for title, _ in PROBES), WORST, HIDDEN) if title in known]


def quoted(leak: Mapping[str, Any]) -> str:
    """Returns the question and the answer of a leak, the prescribed opening of the answer in brackets."""
    opening = f"[{leak['opening']}] " if leak["opening"] else ""
    return f"{leak['prompt']} -> {opening}{leak['answer']}"
