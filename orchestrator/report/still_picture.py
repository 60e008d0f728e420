"""Draws the report as one still picture, for READMEs, slides and MLflow.

Matplotlib is used without pyplot, which has global state: here any thread may draw.
"""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from orchestrator.pareto.objectives import Objective
from orchestrator.pareto.sweep_view import SweepView
from orchestrator.report.figure_data import (
    BELIEF_NAMES,
    METHOD_NAMES,
    Point,
    SqueezeGroup,
    axis_title,
    baseline_points,
    method_names,
    points_of,
    progress_title,
    squeeze_groups,
    squeeze_level,
    staircase,
    top_importances,
    yardstick,
)
from orchestrator.report.label_placement import Label, place_labels
from orchestrator.report.palette import (
    CANONICAL_COLOUR,
    GREY,
    GRID,
    INK,
    METHOD_COLOURS,
    OBJECTIVE_COLOURS,
    REPHRASED_COLOUR,
)
from orchestrator.report.parallel_axes import parallel_axes

_MARKERS = {"none": "o", "token": "s", "sequence": "^", "token+sequence": "D"}
BASELINE_MARKERS = {"original": "X", "prompted": "v", "retrained": "*", "retrained_twin": "P"}
_TEXT, _MEMBER_SIZE, _BASELINE_SIZE = 12, 130.0, 230.0


def draw_picture(path: Path, view: SweepView) -> None:
    """Draws front, hypervolume, importance, squeezing (where measured) and parallel coordinates as a PNG.

    Args:
        path: File to write.
        view: The sweep.
    """
    groups = squeeze_groups(view)
    heights = [6.4, 4.0, 4.4] if groups else [6.4, 4.4]
    figure = Figure(figsize=(15, sum(heights)), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    rows = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    left, right = rows[0].subfigures(1, 2, width_ratios=[1.45, 1])
    upper, lower = right.subplots(2, 1, height_ratios=[1, 1.25])
    _hypervolume(upper, view)
    _importance(lower, view)
    if groups:
        _squeeze(rows[1], view, groups)
    _parallel(rows[-1].subplots(), view)
    # The front comes last: its names are placed by the finished layout.
    draw_front(left.subplots(), view)
    figure.savefig(path, dpi=100, format="png")


def draw_front(axes: Axes, view: SweepView) -> None:
    """Draws the first two objectives, a lone objective over the trials, and names the members of the front.

    The rest of the figure has to be drawn before: the names are placed by the finished layout.
    """
    first, other = view.objectives[0], view.objectives[1] if len(view.objectives) > 1 else None
    points = points_of(view)
    if len(view.objectives) == 2:
        axes.plot(*staircase(view.front), color=INK, linewidth=1.2, zorder=2)
    labels = _draw_points(axes, points, first, other) + _draw_baselines(axes, view, first, other)
    axes.margins(0.09)
    axes.set_xlabel(axis_title(first) if other else "trial", fontsize=_TEXT)
    axes.set_ylabel(axis_title(other or first), fontsize=_TEXT)
    trials, volume = len({point.record.number for point in points}), view.front.hypervolume
    titled(axes, f"{view.sweep.name}: Pareto front of {trials} trials, hypervolume {volume:.3f}")
    _draw_legend(axes, points)
    place_labels(axes, labels)


def _draw_points(
    axes: Axes, points: Sequence[Point], first: Objective, other: Objective | None
) -> list[Label]:
    labels = []
    for point in points:
        place = _place(point, first, other)
        size, alpha, edge = (_MEMBER_SIZE, 1.0, INK) if point.on_front else (50, 0.45, "none")
        axes.scatter(
            *place,
            s=size,
            alpha=alpha,
            color=METHOD_COLOURS[point.method],
            marker=_MARKERS[point.beliefs],
            edgecolors=edge,
            zorder=4 if point.on_front else 3,
        )
        if point.on_front:
            labels.append(Label(point.name, place, size))
    return labels


def _draw_baselines(axes: Axes, view: SweepView, first: Objective, other: Objective | None) -> list[Label]:
    labels = []
    for number, (name, values) in enumerate(baseline_points(view).items()):
        # Over the trials, baselines stand to the right of the last one.
        place = (
            (values[first.name], values[other.name])
            if other
            else (len(view.records) + 2.0 * number, values[first.name])
        )
        marker = BASELINE_MARKERS.get(name, "P")
        marks = axes.scatter(*place, s=_BASELINE_SIZE, color=INK, marker=marker, edgecolors="white", zorder=6)
        marks.set_gid("baseline")
        labels.append(Label(f"{name} model", place, _BASELINE_SIZE, important=True))
    return labels


def _draw_legend(axes: Axes, points: Sequence[Point]) -> None:
    handles = [
        Line2D([], [], color=METHOD_COLOURS[name], marker="o", linestyle="none", label=METHOD_NAMES[name])
        for name in method_names(points)
    ]
    handles += [
        Line2D([], [], color=GREY, marker=_MARKERS[name], linestyle="none", label=BELIEF_NAMES[name])
        for name in BELIEF_NAMES
        if any(point.beliefs == name for point in points)
    ]
    if handles:
        axes.legend(handles=handles, loc="best", fontsize=11, framealpha=0.9)


def _place(point: Point, first: Objective, other: Objective | None) -> tuple[float, float]:
    return (
        (point.values[first.name], point.values[other.name])
        if other
        else (point.record.number, point.values[first.name])
    )


def _hypervolume(axes: Axes, view: SweepView) -> None:
    history = view.hypervolumes
    axes.plot(
        range(1, len(history) + 1), history, drawstyle="steps-post", color=INK, marker="o", markersize=4
    )
    level = yardstick(view)
    if level is not None:
        axes.axhline(level, color=GREY, linestyle="--")
        axes.annotate(
            "retrained model alone",
            (0.99, level),
            (0, -4),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=10,
            color=INK,
        )
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set_xlabel("trials with a result", fontsize=_TEXT)
    axes.set_ylabel("hypervolume\n(higher is better)", fontsize=_TEXT)
    titled(axes, "Hypervolume over trials")


def _importance(axes: Axes, view: SweepView) -> None:
    objectives, keys = view.objectives, top_importances(view, 9)
    # The panel keeps its place without importances, so that all pictures have one layout.
    titled(axes, "Importance per objective")
    if not keys:
        axes.set_axis_off()
        axes.text(
            0.5,
            0.5,
            "too few finished trials",
            ha="center",
            va="center",
            transform=axes.transAxes,
            fontsize=_TEXT,
        )
        return
    width = 0.8 / len(objectives)
    for index, objective in enumerate(objectives):
        shares = view.importances.get(objective.name, {})
        places = [position + (index - (len(objectives) - 1) / 2) * width for position in range(len(keys))]
        colour = OBJECTIVE_COLOURS[index % len(OBJECTIVE_COLOURS)]
        axes.barh(
            places, [shares.get(key, 0.0) for key in keys], height=width, color=colour, label=objective.name
        )
    axes.set_yticks(range(len(keys)), keys, fontsize=10)
    axes.invert_yaxis()
    axes.set_xlabel("share (adds up to 1 per objective)", fontsize=_TEXT)
    axes.legend(fontsize=10, loc="lower right")


def _squeeze(figure: SubFigure, view: SweepView, groups: Sequence[SqueezeGroup]) -> None:
    level = squeeze_level(view)
    figure.suptitle(
        "Squeezing: where the forgotten mass goes, with and without beliefs",
        x=0.005,
        ha="left",
        fontsize=14,
        weight="bold",
    )
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, group in zip(panels, groups, strict=True):
        for line in group.lines:
            axes.plot(line.progress, line.canonical, color=CANONICAL_COLOUR, alpha=0.25, linewidth=1)
            axes.plot(line.progress, line.rephrased, color=REPHRASED_COLOUR, alpha=0.25, linewidth=1)
        median = group.median
        axes.plot(
            median.progress,
            median.canonical,
            color=CANONICAL_COLOUR,
            linewidth=3.2,
            marker="o",
            label="canonical wording (median)",
        )
        axes.plot(
            median.progress,
            median.rephrased,
            color=REPHRASED_COLOUR,
            linewidth=3.2,
            marker="s",
            label="rephrasings (median)",
        )
        if level is not None:
            axes.axhline(level, color=REPHRASED_COLOUR, linestyle=":", label="rephrasings before")
        axes.set_ylim(0, 1.02)
        axes.set_xlabel(progress_title(view.sweep), fontsize=_TEXT)
        titled(
            axes, f"{BELIEF_NAMES[group.beliefs]}: {len(group.lines)} trial{'s' * (len(group.lines) != 1)}"
        )
    panels[0].set_ylabel("mass on forget questions,\nvalidation part", fontsize=_TEXT)
    panels[0].legend(fontsize=10, loc="upper right")


def _parallel(axes: Axes, view: SweepView) -> None:
    """Draws a line per trial over searched keys and objectives, the front's members in their method's
    colour."""
    # Members come last, so that their lines lie on top.
    points = sorted(points_of(view), key=lambda point: point.on_front)
    columns = parallel_axes(view.sweep, view.objectives, points)
    for index, point in enumerate(points):
        heights = [axis.share(axis.positions[index]) for axis in columns]
        colour, width, alpha = (
            (METHOD_COLOURS[point.method], 2.2, 0.95) if point.on_front else (GREY, 0.8, 0.35)
        )
        axes.plot(range(len(columns)), heights, color=colour, linewidth=width, alpha=alpha)
    # The lines of the trials cross the tick labels, which stay legible on a white ground.
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5}
    for place, axis in enumerate(columns):
        axes.axvline(place, color=INK, linewidth=0.8)
        for position, text in axis.ticks:
            where = (place, axis.share(position))
            axes.annotate(text, where, (4, 0), textcoords="offset points", fontsize=9, va="center", bbox=box)
    axes.set_xticks(
        range(len(columns)),
        [axis.title.replace(".", ".\n").replace(" (", "\n(") for axis in columns],
        fontsize=10,
    )
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.1, len(columns) - 0.6 if columns else 1)
    axes.set_yticks([])
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
    axes.set_title(
        "Searched keys and objectives (front members in their method's colour)",
        loc="left",
        fontsize=13,
        color=INK,
        weight="bold",
    )


def titled(axes: Axes, text: str) -> None:
    """Gives axes the picture's look, and a title."""
    axes.set_title(text, loc="left", fontsize=13, color=INK, weight="bold")
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
