"""`lethe score`: recompute the metrics of an evaluation log."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.options import AsJson, app, print_json, screen, user_errors

PANEL = "Read evaluation logs"


@app.command(rich_help_panel=PANEL)
def score(
    log: Annotated[
        Path,
        typer.Argument(
            metavar="LOG.json",
            help="TOFU_EVAL.json or MUSE_EVAL.json of OpenUnlearning, or a measurement of Lethe.",
        ),
    ],
    retrained: Annotated[
        Path | None,
        typer.Option(
            "--retrained",
            metavar="LOG.json",
            help="The same kind of file for the retrained model, for forget quality and PrivLeak.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recompute every metric of an evaluation log from its per-item values."""
    with user_errors():
        from orchestrator.evaluation_logs.scores import score as score_file
        from orchestrator.terminal.score_tables import scores_json, show_scores

        scores = score_file(log, retrained)
        if as_json:
            print_json(scores_json(scores))
        else:
            show_scores(scores, screen())
