"""The report's section on audits: which facts look forgotten but are not, with the answers that show it."""

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from orchestrator.pareto.sweep_view import SweepView
from orchestrator.report.audit_table import GRADES, audit_cells, audit_titles, audits_table, quoted
from orchestrator.report.interactive_figures import figure_html, styled
from orchestrator.report.palette import GREY, INK
from orchestrator.report.sections.section import Section
from orchestrator.storage.followup_records import Audit
from orchestrator.table import Table, columns

_BASELINES = {"original": INK, "retrained": GREY}


def audit_content(view: SweepView) -> str:
    """Returns the figure, a table, and for each model the sentences that gave hidden facts away."""
    if not view.audits:
        return ""
    mixed = (
        "<p>These audits were made with different settings: rows cannot be compared with each other.</p>\n"
        if len({audit.settings_hash for audit in view.audits}) > 1
        else ""
    )
    figure = figure_html("audit", audit_figure(view.audits))
    return f"{mixed}{figure}\n{audits_table(view.audits).html()}\n{''.join(map(_sentences, view.audits))}"


def audit_figure(audits: Sequence[Audit]) -> go.Figure:
    """Draws one line per model through its probes.

    The grades of a language model that judges have another scale, so only the table shows them.
    """
    titles = [title for title in audit_titles(audits) if title not in GRADES]
    figure = go.Figure()
    members = [audit for audit in audits if audit.name not in _BASELINES]
    # Colours run along the front, so that neighbours look alike; baselines are drawn last, on top.
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
    figure.update_yaxes(title="share of the facts stated", range=[-0.03, 1.03])
    return styled(figure, 460)


def _along_the_front(count: int) -> list[str]:
    colours: list[str] = sample_colorscale("Viridis", [place / max(1, count - 1) for place in range(count)])
    return colours


def _sentences(audit: Audit) -> str:
    if not audit.hidden or audit.name in _BASELINES:
        return ""
    rows = [
        [fact, leak["probe"], quoted(leak), leak["truth"]]
        for fact, leaks in sorted(audit.hidden.items())
        for leak in leaks
    ]
    table = Table(columns("fact", "probe", "question and answer", "the truth"), rows)
    count = f"{len(audit.hidden)} of {audit.facts} facts look forgotten and are not"
    return f"<details><summary>{escape(audit.name)}: {count}</summary>{table.html()}</details>\n"


AUDITS = Section(
    "Is it really forgotten?",
    "Share of the forgotten facts that a model still states: with the questions of the evaluation, in one"
    " of k sampled answers (leak@k), in the worst of many wordings of the question, behind prefixes and"
    " openings of the answer, after a short fine-tuning on a slice of the forget set (questions are from"
    " the rest; the control is fine-tuned on unrelated text), and with quantised weights. The retrained"
    " model never saw the facts: what it states is chance, and more wordings give chance more tries. A"
    " fact is hidden where no question of the evaluation brings it out but a probe does.",
    audit_content,
)
