"""The report's section on confirmation: the front under new seeds beside the front of the search."""

from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from orchestrator.pareto.dominance import Attainment
from orchestrator.pareto.objectives import Objective
from orchestrator.pareto.seed_statistics import ConfirmedFront, ConfirmedMember, confirmed_front
from orchestrator.pareto.sweep_view import SweepView
from orchestrator.report.figure_data import (
    axis_title,
    baseline_points,
    better,
    edge,
    group_name,
    method_and_beliefs,
    names_with_room,
)
from orchestrator.report.interactive_figures import BASELINE_SYMBOLS, figure_html, styled
from orchestrator.report.palette import BLUE, INK
from orchestrator.report.sections.section import Section
from orchestrator.table import Table, columns

_BAND = "rgba(86, 180, 233, 0.28)"


def confirmation_content(view: SweepView) -> str:
    """Returns sentences, the figure and a table; empty where no member of the front was confirmed."""
    found = confirmed_front(view.front, view.criteria, view.confirmations)
    if found is None:
        return ""
    # A lone objective has one best member, about which the table says everything.
    drawn = len(view.objectives) > 1 and any(confirmed.values for confirmed in found.members)
    figure = figure_html("confirmation", confirmation_figure(view, found)) if drawn else ""
    summary = escape(_summary(found, len(view.objectives)))
    return f"<p>{summary}</p>\n{figure}\n{member_table(view, found).html()}"


def confirmation_figure(view: SweepView, found: ConfirmedFront) -> go.Figure:
    """Draws searched values, every repetition, and means with intervals.

    With two objectives the figure also shows what all, half and any of the seeds attain.

    Args:
        view: The sweep, with at least two objectives: the first is the horizontal axis, and each further one
            has a panel.
        found: The confirmed front, with at least one repetition that did not fail.
    """
    objectives = view.objectives
    first, others = objectives[0], objectives[1:]
    figure = make_subplots(rows=1, cols=len(others), horizontal_spacing=0.09)
    members = [confirmed for confirmed in found.members if confirmed.values]
    for column, other in enumerate(others, start=1):
        traces = (
            []
            if found.attainment is None
            else _surfaces(objectives, found.attainment, len(found.hypervolumes))
        )
        traces += [
            _shifts(members, first, other),
            _repetitions(members, first, other),
            _searched(members, first, other),
        ]
        traces += [_means(members, first, other)]
        traces += [_baseline(name, values, first, other) for name, values in baseline_points(view).items()]
        for trace in traces:
            trace.update(showlegend=column == 1 and trace.showlegend is not False, legendgroup=trace.name)
            figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title=axis_title(first), row=1, col=column)
        figure.update_yaxes(title=axis_title(other), row=1, col=column)
    # The names are so long that beside the figure they would take a third of its width.
    legend = {"orientation": "h", "y": -0.14, "itemsizing": "trace"}
    return styled(figure, 640).update_layout(legend=legend)


def _surfaces(objectives: Sequence[Objective], surfaces: Attainment, seeds: int) -> list[go.Scatter]:
    best, median, worst = (
        edge(objectives, corners) for corners in (surfaces.best, surfaces.median, surfaces.worst)
    )
    # Without a point that all seeds attain, the band ends at the reference point.
    corner = [[objective.reference] for objective in objectives]
    inner = worst if worst[0] else (corner[0], corner[1])
    band = go.Scatter(
        x=[*best[0], *inner[0][::-1]],
        y=[*best[1], *inner[1][::-1]],
        mode="lines",
        fill="toself",
        fillcolor=_BAND,
        line={"width": 0},
        name=f"attained by any, but not by all of {seeds} seeds",
        hoverinfo="skip",
    )
    return [
        band,
        *(
            go.Scatter(
                x=x,
                y=y,
                mode="lines",
                line={"color": BLUE, "width": width, "dash": dash},
                name=name,
                hoverinfo="skip",
            )
            for name, (x, y), width, dash in (
                ("attained by all seeds (worst)", worst, 1.5, "solid"),
                ("attained by half of the seeds (median)", median, 2.5, "solid"),
                ("attained by any seed (best)", best, 1.5, "dot"),
            )
        ),
    ]


def _shifts(members: Sequence[ConfirmedMember], first: Objective, other: Objective) -> go.Scatter:
    """Draws a line from each searched value to its mean.

    Most lines lead away from the ideal: members were chosen for runs that were better by luck.
    """
    x: list[float | None] = []
    y: list[float | None] = []
    for confirmed in members:
        # A gap after each pair, so that no line joins the members.
        x += [confirmed.member.objectives[first.name], confirmed.estimates[first.name].mean, None]
        y += [confirmed.member.objectives[other.name], confirmed.estimates[other.name].mean, None]
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": INK, "width": 1, "dash": "dot"},
        showlegend=False,
        hoverinfo="skip",
    )


def _repetitions(members: Sequence[ConfirmedMember], first: Objective, other: Objective) -> go.Scatter:
    pairs = [(value, confirmed.member.name) for confirmed in members for value in confirmed.values]
    return go.Scatter(
        x=[value[first.name] for value, _ in pairs],
        y=[value[other.name] for value, _ in pairs],
        mode="markers",
        marker={"color": BLUE, "size": 5, "opacity": 0.45},
        name="one new seed",
        hovertext=[f"{name}, one new seed" for _, name in pairs],
        hoverinfo="x+y+text",
    )


def _searched(members: Sequence[ConfirmedMember], first: Objective, other: Objective) -> go.Scatter:
    return go.Scatter(
        x=[confirmed.member.objectives[first.name] for confirmed in members],
        y=[confirmed.member.objectives[other.name] for confirmed in members],
        mode="markers",
        marker={"symbol": "circle-open", "color": INK, "size": 11, "line": {"width": 1.8}},
        name="as searched",
        hovertext=[f"{confirmed.member.name} as searched" for confirmed in members],
        hoverinfo="x+y+text",
    )


def _means(members: Sequence[ConfirmedMember], first: Objective, other: Objective) -> go.Scatter:
    def bars(objective: Objective) -> dict[str, Any]:
        """Error bars of one axis, in the form of Plotly."""
        widths = [confirmed.estimates[objective.name].half_width for confirmed in members]
        return {
            "type": "data",
            "array": [width or 0.0 for width in widths],
            "thickness": 1.4,
            "width": 4,
            "color": BLUE,
        }

    return go.Scatter(
        x=[confirmed.estimates[first.name].mean for confirmed in members],
        y=[confirmed.estimates[other.name].mean for confirmed in members],
        error_x=bars(first),
        error_y=bars(other),
        mode="markers+text",
        text=_labels(members, first, other),
        # The names stand on the side of the worse values, where no edge is drawn.
        textposition=(
            f"{'bottom' if other.direction == 'maximize' else 'top'}"
            f" {'right' if first.direction == 'minimize' else 'left'}"
        ),
        textfont={"size": 11},
        marker={"color": BLUE, "size": 9, "line": {"color": "white", "width": 1}},
        name="mean over new seeds, 95 % interval",
        hovertext=[_hover(confirmed, (first, other)) for confirmed in members],
        hoverinfo="text",
    )


def _labels(members: Sequence[ConfirmedMember], first: Objective, other: Objective) -> list[str]:
    places = [
        (confirmed.estimates[first.name].mean, confirmed.estimates[other.name].mean) for confirmed in members
    ]
    return names_with_room([confirmed.member.name for confirmed in members], places)


def _baseline(name: str, values: dict[str, float], first: Objective, other: Objective) -> go.Scatter:
    return go.Scatter(
        x=[values[first.name]],
        y=[values[other.name]],
        mode="markers+text",
        text=[name],
        textposition="top center",
        cliponaxis=False,
        marker={"symbol": BASELINE_SYMBOLS[name], "size": 15, "color": INK},
        name=f"{name} model",
        hoverinfo="x+y+name",
    )


def _hover(confirmed: ConfirmedMember, objectives: Sequence[Objective]) -> str:
    lines = [f"<b>{confirmed.member.name}</b>, {len(confirmed.values)} new seeds"]
    for objective in objectives:
        searched = confirmed.member.objectives[objective.name]
        lines.append(
            f"{objective.name}: {confirmed.estimates[objective.name].text()} (searched {searched:.4f})"
        )
    return "<br>".join(lines)


def _summary(found: ConfirmedFront, objectives: int) -> str:
    sentences = [f"{len(found.members)} of {found.front_size} members of the front were run again."]
    volume = found.hypervolume
    if volume is None:
        sentences.append("No seed has them all yet, so there is no hypervolume to compare.")
    else:
        each = ", ".join(f"{value:.4f}" for value in found.hypervolumes.values())
        seeds = "one seed" if volume.count == 1 else f"{volume.count} seeds"
        sure = "" if volume.count == 1 else f" (mean and 95 % interval; seed by seed {each})"
        sentences.append(f"Their hypervolume over {seeds} is {volume.text()}{sure}.")
        difference = found.searched_hypervolume - volume.mean
        spread = (
            ""
            if volume.spread is None
            else f"; one seed differs from another by {volume.spread:.4f} (standard deviation)"
        )
        side = "above" if difference >= 0 else "below"
        sentences.append(
            f"As searched it was {found.searched_hypervolume:.4f}, which is {abs(difference):.4f}"
            f" {side}{spread}."
        )
    if objectives != 2:
        sentences.append("Attainment surfaces are drawn for two objectives only.")
    return " ".join(sentences)


def member_table(view: SweepView, found: ConfirmedFront) -> Table:
    """Returns a row per confirmed member: means with intervals and spreads beside the searched values."""
    limits = bool(view.criteria.limits)
    titles = ["trial", "method"]
    for objective in view.objectives:
        titles += [f"{objective.name}, mean ({better(objective)})", "spread", "as searched"]
    titles += [*(["within limits"] if limits else []), "seeds"]
    rows = []
    for confirmed in found.members:
        count, failures = len(confirmed.values), confirmed.failures
        row = [confirmed.member.name, group_name(*method_and_beliefs(view.sweep, confirmed.member.record))]
        for objective in view.objectives:
            estimate = confirmed.estimates.get(objective.name)
            spread = "" if estimate is None or estimate.spread is None else f"{estimate.spread:.4f}"
            # No-break spaces keep a mean and its interval in one line.
            mean = "" if estimate is None else estimate.text().replace(" ", "\u00a0")
            row += [mean, spread, f"{confirmed.member.objectives[objective.name]:.4f}"]
        kept = [f"{count - confirmed.infeasible} of {count}"] if limits else []
        seeds = f"{count}, and {len(failures)} failed: {failures[0]}" if failures else str(count)
        rows.append([*row, *kept, seeds])
    return Table(columns(*titles), rows)


CONFIRMATION = Section(
    "Confirmation",
    "Members of the front, run again under seeds that the search never used. A member was chosen because its"
    " one run was good, so that run flatters it; the mean says what to expect of another seed. Bars are 95 %"
    " intervals of the mean (Student's t), values are of the test part. Edges say how far a whole front"
    " comes: what any seed, at least half of the seeds, and all of them attain.",
    confirmation_content,
)
