"""Prints learning dynamics as two tables: what one step changes, and what the step is made of."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from orchestrator.report.figure_data import group_name
from orchestrator.report.palette import RESIDUAL_COLOURS
from orchestrator.table import Table, columns
from orchestrator.terminal.rich_tables import rich_table

STEPS_TITLE = "share of the residuals by token; slope of actual against predicted by length of the step"


def show_dynamics(found: Mapping[str, Any], console: Console) -> None:
    """Prints, for each loss, what one step does to every group of answers and what the step is made of."""
    changes, steps = [], []
    for update in found["updates"]:
        name = group_name(update["method"], update["beliefs"])
        for group, size in found["sizes"].items():
            change = update["groups"][group]
            cells = (
                f"{change['predicted']:+.4f}",
                f"{change['actual']:+.4f}",
                f"{change['softmax_share']:.2f}",
            )
            changes.append([name, f"{group} ({size})", *cells])
        mass = [f"{update['residual_mass'][part]:.3f}" for part in RESIDUAL_COLOURS]
        steps.append([name, *mass, *(f"{slope:.4f}" for slope in update["slopes"].values())])
    title = f"change per response in nats, one step of length {found['told_rate']:g}"
    headings = columns("loss", "answers", "predicted", "actual", "share of A")
    console.print(rich_table(Table(headings, changes, title=title)))
    lengths = (f"{length:g}" for length in found["rates"])
    console.print(rich_table(Table(columns("loss", *RESIDUAL_COLOURS, *lengths), steps, title=STEPS_TITLE)))
