"""Prints what audits found: a table, and the answers that give hidden facts away."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from orchestrator.report.audit_table import audits_table, quoted
from orchestrator.storage.followup_records import Audit
from orchestrator.terminal.rich_tables import rich_table, say

SENTENCES = 12
"""Leaks that the terminal prints."""


def audits_json(audits: Sequence[Audit]) -> list[dict[str, Any]]:
    """Returns audits as plain data."""
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
    """Prints the share of the facts that each model still states, and some of the answers that show it."""
    title = "share of the facts that each model still states; the retrained one guesses"
    console.print(rich_table(audits_table(audits, title)))
    quotes = [
        (audit.name, leak)
        for audit in audits
        if audit.name not in ("original", "retrained")
        for leak in first_leaks(audit)
    ]
    if quotes:
        say(console, "Facts that look forgotten and are not:")
    for name, leak in quotes[:SENTENCES]:
        say(console, f"  {name}, {leak['probe']}: {quoted(leak)}")
    if len(quotes) > SENTENCES:
        say(console, f"  and {len(quotes) - SENTENCES} more")


def first_leaks(audit: Audit) -> list[Mapping[str, Any]]:
    """Returns one leak for each fact that looks forgotten but is not."""
    return [leaks[0] for leaks in audit.hidden.values()]
