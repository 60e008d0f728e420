"""Prints a comparison of sweeps as a table, and returns the same as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from orchestrator.followups.comparison import Comparison
from orchestrator.pareto.hypervolume_statistics import Interval
from orchestrator.pareto.seed_statistics import Estimate
from orchestrator.storage.trial_records import BASELINES, OPTIONAL_BASELINES
from orchestrator.table import Column, Table
from orchestrator.terminal.rich_tables import rich_table, say

SOURCES = {
    "seeds": (
        "over seeds: 95 % t-interval of the mean hypervolume when the whole front is run again under new"
        " seeds"
    ),
    "trials": (
        "over trials: bootstrap over the trials of the search; shows how much hangs on a few good draws, not"
        " how much seeds differ (`lethe confirm` shows that), and lies below the hypervolume, since a"
        " resample lacks a third of the trials"
    ),
}


def comparison_table(comparison: Comparison) -> Table:
    """Returns the comparison as a table with a column per sweep."""
    reference = ", ".join(f"{objective.name} {objective.reference:g}" for objective in comparison.objectives)
    sides = (Column(side.name, right=True) for side in comparison.sweeps)
    title = f"Test part, against the reference point {reference}"
    return Table([Column(""), *sides], _rows(comparison), title=title)


def show_comparison(comparison: Comparison, console: Console) -> None:
    """Prints the table, what its intervals mean, and what makes the comparison less than fair."""
    console.print(rich_table(comparison_table(comparison)))
    for source, text in SOURCES.items():
        if any(side.interval is not None and side.interval.source == source for side in comparison.sweeps):
            say(console, text, wrap=True)
    for warning in comparison.warnings:
        say(console, f"warning: {warning}", style="yellow", wrap=True)


def _rows(comparison: Comparison) -> list[list[str]]:
    """Returns the rows: a title and a cell for each sweep."""
    sides = comparison.sweeps

    def values(title: str, name: str, found: Sequence[Mapping[str, float] | None]) -> list[str]:
        return [title, *(f"{one[name]:.4f}" if one else "" for one in found)]

    rows = [
        ["trials", *(str(side.ended) for side in sides)],
        ["  failed", *(str(side.failed) for side in sides)],
        ["  stopped", *(str(side.stopped) for side in sides)],
        ["worker-hours", *(f"{side.worker_hours:.3g}" for side in sides)],
        ["members of the front", *(str(len(side.front.members)) for side in sides)],
        ["hypervolume", *(f"{side.front.hypervolume:.4f}" for side in sides)],
        ["  95 % interval (over)", *(_interval(side.interval) for side in sides)],
        ["  over new seeds", *(_confirmed(side.confirmed) for side in sides)],
        [
            f"  after {comparison.equal_worker_hours:.3g} worker-hours",
            *(f"{side.hypervolume_at_equal_time:.4f}" for side in sides),
        ],
    ]
    for objective in comparison.objectives:
        rows.append(
            values(
                f"best {objective.name} ({objective.direction})",
                objective.name,
                [side.best for side in sides],
            )
        )
    # A missing retrained model is worth an empty row; an optional baseline is not.
    for baseline in (
        name
        for name in BASELINES
        if name not in OPTIONAL_BASELINES or any(side.baselines[name] for side in sides)
    ):
        for objective in comparison.objectives:
            rows.append(
                values(
                    f"{baseline} {objective.name}",
                    objective.name,
                    [side.baselines[baseline] for side in sides],
                )
            )
    return rows


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.low:.4f} to {interval.high:.4f} ({interval.source})"


def _confirmed(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.text()}, {estimate.count} seed{'s' * (estimate.count > 1)}"


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Returns the comparison as `lethe compare --json` prints it."""
    return {
        "objectives": [
            {"name": objective.name, "direction": objective.direction} for objective in comparison.objectives
        ],
        "reference_point": {objective.name: objective.reference for objective in comparison.objectives},
        "equal_worker_hours": comparison.equal_worker_hours,
        "warnings": list(comparison.warnings),
        "sweeps": [
            {
                "sweep": side.name,
                "trials": side.ended,
                "failed": side.failed,
                "stopped": side.stopped,
                "worker_hours": side.worker_hours,
                "hypervolume": side.front.hypervolume,
                "hypervolume_interval": None if side.interval is None else asdict(side.interval),
                "confirmed_hypervolume": None if side.confirmed is None else asdict(side.confirmed),
                "hypervolume_at_equal_time": side.hypervolume_at_equal_time,
                "best": dict(side.best),
                "front": [
                    {"name": member.name, "objectives": dict(member.objectives)}
                    for member in side.front.members
                ],
                "baselines": dict(side.baselines),
            }
            for side in comparison.sweeps
        ],
    }
