"""Learning dynamics for people: a table for the terminal, and a picture."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator.report.dynamics_picture import _PARTS, STEPS_TITLE
from orchestrator.report.figure_data import group_name


def show_dynamics(found: Mapping[str, Any], console: Console) -> None:
    """Print what one step does to every group of answers, and what the step is made of, loss by loss."""
    sizes, rate = found["sizes"], found["told_rate"]
    changes = Table(
        "loss",
        "answers",
        "predicted",
        "actual",
        "share of A",
        title=f"change per response in nats, one step of length {rate:g}",
    )
    steps = Table(
        "loss", "target", "belief", "rest", *(f"{length:g}" for length in found["rates"]), title=STEPS_TITLE
    )
    for update in found["updates"]:
        name = group_name(update["method"], update["beliefs"])
        for group, size in sizes.items():
            told = update["groups"][group]
            cells = (f"{told['predicted']:+.4f}", f"{told['actual']:+.4f}", f"{told['softmax_share']:.2f}")
            changes.add_row(name, f"{group} ({size})", *cells)
            name = ""
        changes.add_section()
        mass = [f"{update['residual_mass'][part]:.3f}" for part in _PARTS]
        slopes = [f"{slope:.4f}" for slope in update["slopes"].values()]
        steps.add_row(group_name(update["method"], update["beliefs"]), *mass, *slopes)
    console.print(changes)
    console.print(steps)
