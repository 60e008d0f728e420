"""`lethe status`, `front`, `report`, `logs` and `compare`: show sweeps, while they run and afterwards."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.options import (
    AsJson,
    Storage,
    Sweep,
    app,
    open_named,
    print_json,
    screen,
    user_errors,
)
from orchestrator.terminal.rich_tables import say
from search_spaces.user_errors import UserError

PANEL = "Look at sweeps"


@app.command(rich_help_panel=PANEL)
def status(sweep: Sweep, storage: Storage = None, as_json: AsJson = False) -> None:
    """Show the trials of a sweep, which may be running."""
    with user_errors():
        from orchestrator.terminal.sweep_tables import show_status, status_json

        _, settings, study = open_named(sweep, storage)
        records = study.records()
        if as_json:
            print_json(status_json(settings, records))
        else:
            show_status(settings, records, screen())


@app.command(rich_help_panel=PANEL)
def front(
    sweep: Sweep,
    storage: Storage = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Show the Pareto front of a sweep."""
    with user_errors():
        from orchestrator.pareto.sweep_view import read_view
        from orchestrator.report.html_report import sweep_front
        from orchestrator.report.tables import front_csv
        from orchestrator.terminal.sweep_tables import show_front

        folder, settings, study = open_named(sweep, storage)
        view = read_view(folder, settings, study.records())
        if as_json:
            print_json(sweep_front(view))
        elif as_csv:
            # Without rich, which would wrap long lines.
            sys.stdout.write(front_csv(view))
        else:
            show_front(view, screen())


@app.command(rich_help_panel=PANEL)
def report(sweep: Sweep, storage: Storage = None) -> None:
    """Write a sweep's report (HTML and picture) from its study."""
    with user_errors():
        from orchestrator.report.html_report import study_view, write_report

        folder, settings, study = open_named(sweep, storage)
        html, png = write_report(folder.path, study_view(settings, folder, study))
        say(screen(), f"report: {html}\npicture: {png}")


@app.command(rich_help_panel=PANEL)
def logs(
    sweep: Sweep,
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="Trial id, such as t0003.")],
    storage: Storage = None,
) -> None:
    """Print the log of one trial."""
    with user_errors():
        folder, _, study = open_named(sweep, storage)
        log = folder.trial_log(trial)
        if not log.is_file():
            from search_spaces.user_errors import did_you_mean

            trials = [record.trial_id for record in study.records()]
            raise UserError(
                f"there is no log of this trial.{did_you_mean(trial, trials)}",
                key="TRIAL",
                value=trial,
                allowed=", ".join(trials) or "none yet",
            )
        sys.stdout.write(log.read_text())


@app.command(rich_help_panel=PANEL)
def compare(
    sweeps: Annotated[
        list[str],
        typer.Argument(
            metavar="SWEEP SWEEP...",
            help="Names of sweeps; the reference point of the first is used for all.",
        ),
    ],
    storage: Storage = None,
    as_json: AsJson = False,
    png: Annotated[
        Path | None, typer.Option("--png", metavar="FILE", help="Also draw all fronts into one picture.")
    ] = None,
) -> None:
    """Compare sweeps: hypervolumes with confidence intervals, best values, worker-hours."""
    with user_errors():
        from orchestrator.followups.comparison import compare as compare_views
        from orchestrator.pareto.sweep_view import data_digest, read_view
        from orchestrator.report.comparison_picture import draw_comparison
        from orchestrator.terminal.comparison_tables import comparison_json, show_comparison

        # Digests show whether the sweeps had the same data, without which values are not comparable.
        opened = [open_named(name, storage) for name in sweeps]
        views = [read_view(folder, settings, study.records()) for folder, settings, study in opened]
        comparison = compare_views(views, [data_digest(settings) for _, settings, _ in opened])
        if png is not None:
            draw_comparison(png, comparison)
        if as_json:
            print_json(comparison_json(comparison))
        else:
            show_comparison(comparison, screen())
            if png is not None:
                say(screen(), f"picture: {png}")
