"""The report's section on early stopping: what it saved, and how well each rung predicts the end."""

import itertools
from html import escape

import plotly.graph_objects as go

from orchestrator.pareto.sweep_view import SweepView
from orchestrator.report.interactive_figures import figure_html, styled
from orchestrator.report.palette import GREY, INK, OBJECTIVE_COLOURS
from orchestrator.report.sections.section import Section
from orchestrator.report.sections.stopping_statistics import (
    FEWEST_FINISHED,
    RungStatistics,
    StoppingStatistics,
    stopping_statistics,
)
from orchestrator.table import Column, Table
from search_spaces.settings.sweep_settings import EarlyStoppingSettings

_SYMBOLS = ("circle", "square", "triangle-up", "cross")


def stopping_content(view: SweepView) -> str:
    """Returns sentences, the figure and a table.

    Without early stopping they say what its default settings would have done. They are empty where trials
    have one rung, or too few have finished for a correlation.
    """
    found = stopping_statistics(view.sweep, view.records, view.front)
    if not any(rung.finished >= FEWEST_FINISHED for rung in found.rungs):
        return ""
    settings = view.sweep.early_stopping or EarlyStoppingSettings()
    text = f"{_what_was_done(found, view.sweep.early_stopping)} {_what_would_be_lost(found, settings)}"
    figure = figure_html("stopping", stopping_figure(found, settings.grace_rungs))
    return f"<p>{escape(text)}</p>\n{figure}\n{rung_table(found, settings).html()}"


def stopping_figure(found: StoppingStatistics, grace_rungs: int) -> go.Figure:
    """Draws the rank correlation between each rung and the end, per objective and for the joint rank.

    Early stopping compares trials by the joint rank.

    Args:
        found: The statistics, with at least one rung.
        grace_rungs: Number of first rungs at which no trial is stopped.
    """
    figure = go.Figure()
    rungs = [rung.rung for rung in found.rungs]
    based_on = [f"{rung.finished} trials" for rung in found.rungs]
    styles = itertools.cycle(zip(OBJECTIVE_COLOURS, _SYMBOLS, strict=True))
    lines = [
        (name, [rung.correlations[name] for rung in found.rungs], colour, symbol, 2.0, 9)
        for name, (colour, symbol) in zip(found.rungs[0].correlations, styles, strict=False)
    ]
    lines.append(("joint rank", [rung.joint_correlation for rung in found.rungs], INK, "diamond", 3.5, 11))
    for name, values, colour, symbol, width, size in lines:
        figure.add_scatter(
            x=rungs,
            y=values,
            mode="lines+markers",
            name=name,
            line={"color": colour, "width": width},
            marker={"symbol": symbol, "size": size},
            text=based_on,
            hovertemplate="rung %{x}: %{y:.2f}, %{text}",
        )
    figure.add_vrect(0.5, grace_rungs + 0.5, fillcolor=GREY, opacity=0.12, line_width=0)
    figure.add_annotation(
        x=0.5, y=0, text="grace: no trial is stopped", showarrow=False, xanchor="left", yanchor="bottom"
    )
    figure.add_hline(0, line={"color": GREY, "width": 1})
    figure.update_xaxes(title="rung", dtick=1, range=[0.5, len(rungs) + 0.5])
    lowest = min([0.0, *(value for _, values, *_ in lines for value in values if value is not None)])
    figure.update_yaxes(title="rank correlation with the end", range=[lowest - 0.05, 1.05])
    return styled(figure, 400)


def _what_was_done(found: StoppingStatistics, settings: EarlyStoppingSettings | None) -> str:
    if settings is None:
        return "Early stopping is off; this is what its default settings would have done."
    stopped = f"{found.stopped} of {found.trials} trials were stopped early"
    if found.saved_worker_s is None or found.saved_frac is None:
        return f"{stopped}."
    return (
        f"{stopped}, which saved about {found.saved_worker_s / 60:.3g} worker-minutes"
        f" ({100 * found.saved_frac:.0f} % of what the sweep would have taken): an estimate, by the mean time"
        " per rung of the trials that finished."
    )


def _what_would_be_lost(found: StoppingStatistics, settings: EarlyStoppingSettings) -> str:
    """Describes the first rung at which a trial may be stopped."""
    after_grace = [rung for rung in found.rungs if rung.rung > settings.grace_rungs]
    if not after_grace:
        return "All rungs but the last are grace: no trial is stopped at any of them."
    first = after_grace[0]
    lost = f"{first.lost_members} of {found.members} members of the front"
    if first.lost_hypervolume_frac is not None:
        lost += f" and {_percent(first.lost_hypervolume_frac)} of the validation part's hypervolume"
    return (
        f"At rung {first.rung}, {first.outside} of {first.finished} trials that finished stood outside the"
        f" best 1/{settings.reduction:g}. Had they all ended there, without the shield, {lost} would be"
        " missing."
    )


def rung_table(found: StoppingStatistics, settings: EarlyStoppingSettings) -> Table:
    """Returns a row per rung: the trials that ended there, and what stopping there would have lost."""
    columns = [
        Column("rung"),
        Column("stopped here"),
        Column("finished later"),
        Column(f"of these outside the best 1/{settings.reduction:g}"),
        Column("front members lost with them"),
        Column("hypervolume lost with them", _percent),
    ]
    return Table(columns, [_row(rung) for rung in found.rungs])


def _row(rung: RungStatistics) -> list[float | None]:
    lost = rung.lost_hypervolume_frac
    return [rung.rung, rung.stopped, rung.finished, rung.outside, rung.lost_members, lost]


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


EARLY_STOPPING = Section(
    "Early stopping",
    "Spearman's rank correlation between the trials' values at a rung and at their end, on the validation"
    " part: at 1, the trials that lead at the rung lead in the end; at 0, the rung predicts nothing. Early"
    " stopping compares trials by the joint rank. Unlearning curves are not monotone: stopping is safe at a"
    " rung after which little would be lost. Only trials that ran to their end can show it, so where many"
    " were stopped, the correlations are those of the better trials among themselves, and lower than those of"
    " all trials would be.",
    stopping_content,
)
