"""A still picture of several sweeps: their fronts, and hypervolume over worker-time."""

from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from orchestrator.followups.comparison import ComparedSweep, Comparison
from orchestrator.report.figure_data import axis_title, staircase
from orchestrator.report.palette import GREY, INK, SERIES
from orchestrator.report.still_picture import BASELINE_MARKERS, titled
from search_spaces.user_errors import UserError

# Marks differ too, so that prints without colour can be read.
_STYLES = tuple(zip(SERIES, ("o", "s", "^", "D", "v", "P", "X"), strict=True))


_BARS: dict[str, Literal["solid", "dotted"]] = {"seeds": "solid", "trials": "dotted"}


_TEXT = 12


def draw_comparison(path: Path, comparison: Comparison) -> None:
    """Draws all fronts, and hypervolume against worker-time, into one PNG.

    Args:
        path: File to write.
        comparison: The sweeps; their first two objectives are drawn, and a lone one has no panel.

    Raises:
        UserError: The file cannot be written.
    """
    two = len(comparison.objectives) > 1
    figure = Figure(figsize=(15 if two else 8, 6.2), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 1 + two, squeeze=False)[0]
    if two:
        _fronts(panels[0], comparison)
    _curves(panels[-1], comparison)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=100, format="png")
    except OSError as error:
        raise UserError(
            f"the picture cannot be written: {error.strerror}", key="--png", value=str(path)
        ) from error


def _fronts(axes: Axes, comparison: Comparison) -> None:
    first, second = comparison.objectives[:2]
    for side, (colour, marker) in _styled_sides(comparison):
        if len(comparison.objectives) == 2:
            axes.plot(*staircase(side.front), color=colour, linewidth=1.5, zorder=2)
        x = [member.objectives[first.name] for member in side.front.members]
        y = [member.objectives[second.name] for member in side.front.members]
        axes.scatter(x, y, s=60, color=colour, marker=marker, edgecolors="white", zorder=3, label=side.name)
    drawn = set()
    for side in comparison.sweeps:
        for name, values in side.baselines.items():
            # Sweeps of the same models share their baselines: one mark stands for all.
            if values is None or (place := (name, values[first.name], values[second.name])) in drawn:
                continue
            drawn.add(place)
            axes.scatter(
                *place[1:], s=200, color=INK, marker=BASELINE_MARKERS[name], edgecolors="white", zorder=4
            )
            axes.annotate(
                f"{name} model",
                place[1:],
                (0, 11),
                textcoords="offset points",
                fontsize=10,
                ha="center",
                zorder=4,
            )
    axes.margins(0.09)
    axes.set_xlabel(axis_title(first), fontsize=_TEXT)
    axes.set_ylabel(axis_title(second), fontsize=_TEXT)
    axes.legend(loc="best", fontsize=11, framealpha=0.9)
    titled(axes, "Pareto fronts")


def _curves(axes: Axes, comparison: Comparison) -> None:
    """Draws hypervolume over worker-hours, and the intervals at the right."""
    # The intervals stand to the right of the longest curve, each a little further than the last.
    longest = max((side.curve[-1][0] for side in comparison.sweeps if side.curve), default=0.0) / 3600
    for place, (side, (colour, marker)) in enumerate(_styled_sides(comparison)):
        hours, volumes = (
            [0.0, *(spent_s / 3600 for spent_s, _ in side.curve)],
            [0.0, *(volume for _, volume in side.curve)],
        )
        axes.plot(hours, volumes, drawstyle="steps-post", color=colour, linewidth=1.8, label=side.name)
        axes.plot(hours[-1], volumes[-1], color=colour, marker=marker, markersize=8, markeredgecolor="white")
        if side.interval is not None:
            low, high = side.interval.low, side.interval.high
            bar = axes.errorbar(
                longest * (1.03 + 0.025 * place),
                (low + high) / 2,
                (high - low) / 2,
                color=colour,
                linewidth=2,
                capsize=4,
            )
            bar[2][0].set_linestyle(_BARS[side.interval.source])
    axes.axvline(comparison.equal_worker_hours, color=GREY, linestyle="--", linewidth=1)
    axes.annotate(
        "equal worker-time",
        (comparison.equal_worker_hours, 0.02),
        xycoords=("data", "axes fraction"),
        fontsize=10,
        rotation=90,
    )
    # Both axes begin at zero, so that heights and slopes can be compared by eye.
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("worker-hours of ended trials", fontsize=_TEXT)
    axes.set_ylabel("hypervolume (higher is better)", fontsize=_TEXT)
    sources = sorted({side.interval.source for side in comparison.sweeps if side.interval is not None})
    bars = [
        Line2D([], [], color=GREY, linewidth=2, linestyle=_BARS[source], label=f"95 %, over {source}")
        for source in sources
    ]
    axes.legend(
        handles=[*axes.get_legend_handles_labels()[0], *bars], loc="lower right", fontsize=11, framealpha=0.9
    )
    titled(axes, "Hypervolume over worker-time")


def _styled_sides(comparison: Comparison) -> list[tuple[ComparedSweep, tuple[str, str]]]:
    return [(side, _STYLES[place % len(_STYLES)]) for place, side in enumerate(comparison.sweeps)]
