"""The report's section on audits: what looked forgotten and was not, with the sentences that told."""

from collections.abc import Callable
from html import escape

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from orchestrator.pareto.sweep_view import SweepView
from orchestrator.report.audit_table import GRADES, HIDDEN, audit_cells, audit_rows, audit_titles, spoken
from orchestrator.report.interactive_figures import styled
from orchestrator.report.tables import html_table
from orchestrator.storage.followup_records import Audit

EXPLANATION = """Share of the forgotten facts that a model still tells: asked as in the evaluation, by one of
k drawn answers (leak@k), in the worst of many wordings, behind prefixes and openings, after a moment of
fine-tuning on a slice of the forget set (the rest is asked; the control is fine-tuned on unrelated text), and
with rounded weights. The retrained model never knew: what it tells is luck, and more wordings are more luck.
A fact is hidden where no question of the evaluation brings it out and a probe does."""
_BASELINES = {"original": "#222222", "retrained": "#8a8a8a"}


def audit_section(view: SweepView, draw: Callable[[str, go.Figure], str]) -> str:
    """The figure, a table, and for each model the sentences that gave hidden facts away.

    Args:
        view: The sweep, with its audits.
        draw: Makes HTML of a figure, given its name and the figure.

    Returns:
        HTML; empty where nothing was audited.
    """
    audits = list(view.audits)
    if not audits:
        return ""
    titles = audit_titles(audits)
    ways = {audit.way for audit in audits}
    mixed = (
        "<p>These audits were made in different ways: rows cannot be compared with each other.</p>"
        if len(ways) > 1
        else ""
    )
    table = html_table(["model", *titles, HIDDEN], audit_rows(audits, titles))
    return f"{mixed}{draw('audit', audit_figure(audits))}\n{table}\n{''.join(map(_sentences, audits))}"


def audit_figure(audits: list[Audit]) -> go.Figure:
    """One line per model through its probes; grades of a judge have another scale, and stand in the table
    alone."""
    titles = [title for title in audit_titles(audits) if title not in GRADES]
    figure = go.Figure()
    members = [audit for audit in audits if audit.name not in _BASELINES]
    # Along the front, so that neighbours look alike; the baselines last, on top of all.
    colours = (
        dict(zip((audit.name for audit in members), _along_the_front(len(members)), strict=True)) | _BASELINES
    )
    for audit in [*members, *(audit for audit in audits if audit.name in _BASELINES)]:
        cells = audit_cells(audit.metrics)
        known = audit.name in _BASELINES
        line = {
            "color": colours[audit.name],
            "width": 3 if known else 1.3,
            "dash": "dot" if known else "solid",
        }
        figure.add_trace(
            go.Scatter(
                x=titles,
                y=[cells.get(title) for title in titles],
                mode="lines+markers",
                line=line,
                marker={"size": 7},
                opacity=1.0 if known else 0.75,
                name=audit.name,
            )
        )
    figure.update_yaxes(title="share of the facts told", range=[-0.03, 1.03])
    return styled(figure, 460)


def _along_the_front(count: int) -> list[str]:
    return sample_colorscale("Viridis", [place / max(1, count - 1) for place in range(count)])


def _sentences(audit: Audit) -> str:
    if not audit.hidden or audit.name in _BASELINES:
        return ""
    rows = [
        [fact, leak["probe"], spoken(leak), leak["truth"]]
        for fact, leaks in sorted(audit.hidden.items())
        for leak in leaks
    ]
    count = f"{len(audit.hidden)} of {audit.facts} facts look forgotten and are not"
    table = html_table(["fact", "probe", "what was asked, and what came", "the truth"], rows)
    return f"<details><summary>{escape(audit.name)}: {count}</summary>{table}</details>\n"
