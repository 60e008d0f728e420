"""A still picture of learning dynamics: what one step changed, and how well that was predicted."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from orchestrator.report.figure_data import group_name
from orchestrator.report.palette import GREY, INK, RESIDUAL_COLOURS, SERIES


def draw_dynamics(path: Path, found: Mapping[str, Any], title: str) -> None:
    """Draws what one unlearning step changes, and what the step is made of.

    The panels show predicted and actual changes, the tokens on which the residuals lie, and how the
    prediction improves as steps shrink.

    Args:
        path: PNG to write.
        found: The result of `run_dynamics`.
        title: Names the policy and its sweep.
    """
    updates = found["updates"]
    figure = Figure(figsize=(15, 9), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.3, 1], squeeze=False)[:, 0]
    figure.suptitle(title, fontsize=14)
    _changes(upper.subplots(), updates, list(found["sizes"]), found["told_rate"])
    left, right = lower.subplots(1, 2)
    _residuals(left, updates)
    _slopes(right, updates)
    figure.savefig(path, dpi=110)


def _changes(axes: Axes, updates: Sequence[Mapping[str, Any]], groups: Sequence[str], rate: float) -> None:
    width = 0.8 / len(updates)
    for number, update in enumerate(updates):
        places = [index + (number - (len(updates) - 1) / 2) * width for index in range(len(groups))]
        colour = SERIES[number % len(SERIES)]
        bars = [update["groups"][name]["predicted"] for name in groups]
        axes.bar(
            places, bars, width * 0.9, color=colour, label=group_name(update["method"], update["beliefs"])
        )
        axes.scatter(
            places,
            [update["groups"][name]["actual"] for name in groups],
            marker="_",
            s=220,
            color=INK,
            zorder=3,
        )
    axes.axhline(0, color=GREY, linewidth=1)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel("nats per response")
    axes.set_title(f"what a step of length {rate:g} does to other answers: bars predicted, dashes actual")
    axes.legend(frameon=False, ncols=len(updates))
    axes.spines[["top", "right"]].set_visible(False)


def _residuals(axes: Axes, updates: Sequence[Mapping[str, Any]]) -> None:
    names = [group_name(update["method"], update["beliefs"]) for update in updates]
    start = [0.0] * len(updates)
    for part, colour in RESIDUAL_COLOURS.items():
        sizes = [update["residual_mass"][part] for update in updates]
        axes.barh(names, sizes, left=start, color=colour, label=part)
        start = [before + size for before, size in zip(start, sizes, strict=True)]
    # Horizontal bars begin at the bottom; the first loss belongs to the top.
    axes.invert_yaxis()
    axes.set_xlabel("share of the residuals' absolute sum")
    axes.set_title("on which tokens a step pulls")
    axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, -0.32))
    axes.spines[["top", "right"]].set_visible(False)


def _slopes(axes: Axes, updates: Sequence[Mapping[str, Any]]) -> None:
    for number, update in enumerate(updates):
        rates = [float(rate) for rate in update["slopes"]]
        axes.plot(
            rates,
            list(update["slopes"].values()),
            marker="o",
            color=SERIES[number % len(SERIES)],
            label=group_name(update["method"], update["beliefs"]),
        )
    axes.axhline(1, color=GREY, linewidth=1)
    # The lengths are powers of a factor; the limit of short steps is at the left.
    axes.set_xscale("log")
    axes.set_xlabel("length of the step")
    axes.set_title("slope of actual against predicted: 1 where the first order is all")
    axes.spines[["top", "right"]].set_visible(False)
