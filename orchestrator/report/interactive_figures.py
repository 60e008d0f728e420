"""The report's interactive figures, in Plotly."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from orchestrator.pareto.front import Front
from orchestrator.pareto.objectives import Objective
from orchestrator.pareto.sweep_view import SweepView
from orchestrator.report.figure_data import (
    BELIEF_NAMES,
    Point,
    SqueezeGroup,
    axis_title,
    baseline_points,
    end_points,
    group_name,
    method_names,
    names_with_room,
    points_of,
    progress_title,
    squeeze_level,
    staircase,
    top_importances,
    yardstick,
)
from orchestrator.report.palette import (
    CANONICAL_COLOUR,
    GREY,
    INK,
    METHOD_COLOURS,
    OBJECTIVE_COLOURS,
    REPHRASED_COLOUR,
)
from orchestrator.report.parallel_axes import ParallelAxis, parallel_axes
from orchestrator.storage.trial_records import TrialRecord

_SYMBOLS = {"none": "circle", "token": "square", "sequence": "triangle-up", "token+sequence": "diamond"}
BASELINE_SYMBOLS = {
    "original": "x",
    "prompted": "triangle-down",
    "retrained": "star",
    "retrained_twin": "star-open",
}


def front_figure(view: SweepView) -> go.Figure:
    """Draws every trial on the test part, the edge of the front, and the baselines.

    The first objective is the horizontal axis, and each further one has a panel; a lone objective is drawn
    over the trials.
    """
    objectives, front = view.objectives, view.front
    points, baselines = points_of(view), baseline_points(view)
    others: list[Objective | None] = list(objectives[1:]) or [None]
    figure = make_subplots(rows=1, cols=len(others), horizontal_spacing=0.09)
    for column, other in enumerate(others, start=1):
        traces = [_edge(front)] if len(objectives) == 2 else []
        traces += _point_traces(points, objectives[0], other)
        traces += [
            _baseline(name, values, objectives[0], other, len(view.records) + 2 * place)
            for place, (name, values) in enumerate(baselines.items())
        ]
        for trace in traces:
            # Panels share their traces, so one entry in the legend hides a trace in all of them.
            trace.update(showlegend=column == 1)
            figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title=axis_title(objectives[0]) if other else "trial", row=1, col=column)
        figure.update_yaxes(title=axis_title(other or objectives[0]), row=1, col=column)
    return styled(figure, 580)


def hypervolume_figure(view: SweepView) -> go.Figure:
    """Draws the hypervolume of the front after each trial with a result, beside that of the retrained model
    alone."""
    figure = go.Figure(
        go.Scatter(
            x=list(range(1, len(view.hypervolumes) + 1)),
            y=list(view.hypervolumes),
            mode="lines+markers",
            line={"color": INK, "shape": "hv"},
        )
    )
    level = yardstick(view)
    if level is not None:
        figure.add_hline(
            level,
            line={"dash": "dash", "color": GREY},
            annotation_text="retrained model alone",
            annotation_position="bottom right",
        )
    figure.update_xaxes(title="trials with a result", rangemode="tozero")
    figure.update_yaxes(title="hypervolume (higher is better)", rangemode="tozero")
    return styled(figure, 380).update_layout(showlegend=False)


def importance_figure(view: SweepView) -> go.Figure:
    """Draws the share of each searched key in how an objective varies over the trials."""
    objectives = view.objectives
    keys = top_importances(view)[::-1]
    figure = go.Figure()
    # Horizontal bars are stacked from below, so the first objective goes last.
    for objective, colour in reversed(list(zip(objectives, _cycled(len(objectives)), strict=True))):
        shares = view.importances.get(objective.name, {})
        figure.add_bar(
            y=keys,
            x=[shares.get(key, 0.0) for key in keys],
            orientation="h",
            name=objective.name,
            marker_color=colour,
        )
    figure.update_xaxes(title="share of importance (adds up to 1 per objective)", rangemode="tozero")
    return styled(figure, 160 + 34 * len(keys)).update_layout(
        barmode="group", legend={"traceorder": "reversed"}, margin={"l": 220}
    )


def parallel_figure(view: SweepView) -> go.Figure:
    """Draws every finished trial as a line through its searched keys and objectives, coloured by the first
    objective."""
    points = end_points(view)
    dimensions = [_dimension(axis) for axis in parallel_axes(view.sweep, view.objectives, points)]
    first = view.objectives[0]
    line = {
        "color": [point.values[first.name] for point in points],
        # Dark is better in either direction, so that figures of different sweeps read alike.
        "colorscale": "Cividis",
        "reversescale": first.direction == "maximize",
        "showscale": True,
        "colorbar": {"title": {"text": f"{first.name}<br>(dark is better)"}, "thickness": 14},
    }
    figure = go.Figure(
        go.Parcoords(line=line, dimensions=dimensions, labelangle=-22, labelside="top", tickfont={"size": 11})
    )
    return styled(figure, 560).update_layout(margin={"t": 150, "l": 70, "r": 60})


def squeeze_figure(view: SweepView, groups: Sequence[SqueezeGroup]) -> go.Figure:
    """Draws canonical and rephrased mass: along the trial in the upper row, against each other in the lower
    one, with a column per kind of beliefs.

    Args:
        view: The sweep.
        groups: Trials by beliefs, at least one group.
    """
    names = [f"{BELIEF_NAMES[group.beliefs]} ({_count(len(group.lines))})" for group in groups]
    figure = make_subplots(
        rows=2,
        cols=len(groups),
        subplot_titles=names,
        shared_yaxes=True,
        vertical_spacing=0.13,
        horizontal_spacing=0.03,
    )
    level = squeeze_level(view)
    # A backward axis needs its range, since Plotly does not find one by itself.
    most = 1.05 * max(mass for group in groups for line in group.lines for mass in line.canonical)
    for column, group in enumerate(groups, start=1):
        for trace in _progress_traces(group, column == 1):
            figure.add_trace(trace, row=1, col=column)
        if level is not None:
            figure.add_hline(
                level, row=1, col=column, line={"dash": "dot", "color": REPHRASED_COLOUR, "width": 1.5}
            )
        for line in group.lines:
            figure.add_trace(
                _path(line.canonical, line.rephrased, line.trial_id, GREY, 0.5, 1.2, "paths"),
                row=2,
                col=column,
            )
        figure.add_trace(
            _path(group.median.canonical, group.median.rephrased, "median", INK, 1.0, 3, "paths"),
            row=2,
            col=column,
        )
        figure.update_xaxes(title=progress_title(view.sweep), rangemode="tozero", row=1, col=column)
        # The axis runs backwards, so that forgetting goes to the right in both rows.
        figure.update_xaxes(title="canonical mass", range=[most, 0], row=2, col=column)
    figure.update_yaxes(range=[0, 1.02])
    figure.update_yaxes(title="mass on forget questions", row=1, col=1)
    figure.update_yaxes(title="rephrased mass", row=2, col=1)
    return styled(figure, 760)


def figure_html(name: str, figure: go.Figure) -> str:
    """Returns a figure as HTML for the report, which loads Plotly's library once.

    Args:
        name: Id of the figure's element.
        figure: What to draw.
    """
    # Plotly puts a button on every figure that uploads its data to Plotly's cloud.
    config = {"displaylogo": False, "responsive": True, "showSendToCloud": False}
    html: str = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=config)
    return html


def styled(figure: go.Figure, height: int) -> go.Figure:
    """Gives a figure the look of the report; height in pixels."""
    figure.update_layout(
        template="plotly_white",
        height=height,
        font={"size": 14, "family": "system-ui, sans-serif", "color": INK},
        margin={"t": 40, "r": 30, "b": 60, "l": 70},
        legend={"itemsizing": "constant"},
        hoverlabel={"align": "left"},
    )
    return figure


def _edge(front: Front) -> go.Scatter:
    x, y = staircase(front)
    return go.Scatter(
        x=x, y=y, mode="lines", line={"color": INK, "width": 1.5}, name="edge of the front", hoverinfo="skip"
    )


def _point_traces(points: Sequence[Point], first: Objective, other: Objective | None) -> list[go.Scatter]:
    """Returns one trace per method and beliefs, so that the legend can hide each."""
    members = [point for point in points if point.on_front]
    places = [_place(point, first, other) for point in members]
    shown = dict(
        zip(
            [point.name for point in members],
            names_with_room([point.name for point in members], places),
            strict=True,
        )
    )
    traces = []
    for method in method_names(points):
        for beliefs, symbol in _SYMBOLS.items():
            group = [point for point in points if (point.method, point.beliefs) == (method, beliefs)]
            if not group:
                continue
            marker = {
                "symbol": symbol,
                "color": METHOD_COLOURS[method],
                "size": [15 if point.on_front else 9 for point in group],
                "opacity": [1.0 if point.on_front else 0.45 for point in group],
                "line": {"color": INK, "width": [1.5 if point.on_front else 0 for point in group]},
            }
            traces.append(
                go.Scatter(
                    x=[_place(point, first, other)[0] for point in group],
                    y=[_place(point, first, other)[1] for point in group],
                    mode="markers+text",
                    text=[shown.get(point.name, "") for point in group],
                    textposition="top right",
                    textfont={"size": 11},
                    marker=marker,
                    name=group_name(method, beliefs),
                    legendgroup=group_name(method, beliefs),
                    hovertext=[_hover(point) for point in group],
                    hoverinfo="text",
                )
            )
    return traces


def _place(point: Point, first: Objective, other: Objective | None) -> tuple[float, float]:
    return (
        (point.values[first.name], point.values[other.name])
        if other
        else (point.record.number, point.values[first.name])
    )


def _baseline(
    name: str, values: dict[str, float], first: Objective, other: Objective | None, place: int
) -> go.Scatter:
    return go.Scatter(
        x=[values[first.name] if other else place],
        y=[values[(other or first).name]],
        mode="markers+text",
        text=[name],
        textposition="bottom center",
        marker={"symbol": BASELINE_SYMBOLS.get(name, "cross"), "size": 15, "color": INK},
        name=f"{name} model",
        legendgroup=name,
        hovertext=[
            f"<b>{name} model</b><br>" + "<br>".join(f"{key}: {value:.4f}" for key, value in values.items())
        ],
        hoverinfo="text",
    )


def _hover(point: Point) -> str:
    ended = f", {point.record.status}" if point.record.status != "finished" else ""
    lines = [f"<b>{point.name}</b>{', on the front' if point.on_front else ''}{ended}"]
    for name, value in point.values.items():
        lines.append(
            f"{name}: {value:.4f} (validation {point.record.rungs[point.rung - 1][f'validation/{name}']:.4f})"
        )
    return "<br>".join([*lines, *_params(point.record)])


def _params(record: TrialRecord) -> list[str]:
    return [
        f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}"
        for key, value in record.params.items()
    ]


def _dimension(axis: ParallelAxis) -> dict[str, Any]:
    positions, texts = zip(*axis.ticks, strict=True)
    return {
        "label": axis.title,
        "values": axis.positions,
        "range": [axis.low, axis.high],
        "tickvals": positions,
        "ticktext": texts,
    }


def _progress_traces(group: SqueezeGroup, legend: bool) -> list[go.Scatter]:
    traces = []
    for line in group.lines:
        for name, masses, colour in (
            ("canonical", line.canonical, CANONICAL_COLOUR),
            ("rephrased", line.rephrased, REPHRASED_COLOUR),
        ):
            traces.append(
                go.Scatter(
                    x=line.progress,
                    y=masses,
                    mode="lines",
                    line={"color": colour, "width": 1},
                    opacity=0.3,
                    name=line.trial_id,
                    legendgroup=name,
                    showlegend=False,
                )
            )
    median = group.median
    for name, masses, colour, symbol in (
        ("canonical", median.canonical, CANONICAL_COLOUR, "circle"),
        ("rephrased", median.rephrased, REPHRASED_COLOUR, "square"),
    ):
        marker = {"symbol": symbol, "size": 8}
        traces.append(
            go.Scatter(
                x=median.progress,
                y=masses,
                mode="lines+markers",
                line={"color": colour, "width": 3.5},
                marker=marker,
                name=f"{name} (median)",
                legendgroup=name,
                showlegend=legend,
            )
        )
    return traces


def _path(
    x: Sequence[float], y: Sequence[float], name: str, colour: str, opacity: float, width: float, group: str
) -> go.Scatter:
    line = {"color": colour, "width": width}
    return go.Scatter(
        x=x,
        y=y,
        mode="lines+markers",
        line=line,
        marker={"size": 5},
        opacity=opacity,
        name=name,
        legendgroup=group,
        showlegend=False,
    )


def _cycled(count: int) -> list[str]:
    return [OBJECTIVE_COLOURS[index % len(OBJECTIVE_COLOURS)] for index in range(count)]


def _count(trials: int) -> str:
    return f"{trials} trial{'s' * (trials != 1)}"
