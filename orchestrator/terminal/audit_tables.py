"""What audits found, as a table for the terminal, the leaderboard and the report."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from orchestrator.report.audit_table import audit_rows, audit_titles, spoken
from orchestrator.storage.followup_records import Audit

SENTENCES = 12
"""Leaks that the terminal shows."""


def audits_json(audits: Sequence[Audit]) -> list[dict[str, Any]]:
    """Audits as plain data."""
    return [
        {
            "name": audit.name,
            "metrics": dict(audit.metrics),
            "facts": audit.facts,
            "hidden_facts": sorted(audit.hidden),
            "leaks": [dict(leak) for leak in audit.leaks],
        }
        for audit in audits
    ]


def show_audits(audits: Sequence[Audit], console: Console) -> None:
    """Print what each model still tells, and some of the sentences."""
    titles = audit_titles(audits)
    # As narrow as can be: ten columns must fit.
    title = "share of the facts that is still told; the retrained model can only guess"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 0), pad_edge=False)
    for heading in ("model", *titles, "hidden"):
        table.add_column(heading, no_wrap=True)
    for row in audit_rows(audits, titles):
        table.add_row(*row)
    console.print(table)
    quotes = [
        (audit.name, leak)
        for audit in audits
        if audit.name not in ("original", "retrained")
        for leak in first_leaks(audit)
    ]
    if quotes:
        console.print("Facts that look forgotten and are not:", highlight=False)
    for name, leak in quotes[:SENTENCES]:
        console.print(f"  {name}, {leak['probe']}: {spoken(leak)}", highlight=False, soft_wrap=True)
    if len(quotes) > SENTENCES:
        console.print(f"  and {len(quotes) - SENTENCES} more", highlight=False)


def first_leaks(audit: Audit) -> list[Mapping[str, Any]]:
    """One leak for each fact that looks forgotten."""
    return [leaks[0] for leaks in audit.hidden.values()]
