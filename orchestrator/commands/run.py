"""`lethe prepare`, `run`, `extend`, `stop` and `confirm`, and the session in which commands run jobs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.options import (
    File,
    Members,
    Name,
    Overrides,
    Storage,
    Sweep,
    TrackingUri,
    app,
    check_hub,
    load,
    load_data,
    old_spelling,
    open_named,
    screen,
    user_errors,
)
from orchestrator.terminal.rich_tables import say
from search_spaces.user_errors import UserError

if TYPE_CHECKING:
    from orchestrator.sweep.session import Session
    from search_spaces.settings.sweep_settings import SweepSettings
    from trainables.data.examples import Benchmark

PANEL = "Run a sweep"


@app.command(rich_help_panel=PANEL)
def prepare(file: File, overrides: Overrides = None, name: Name = None, storage: Storage = None) -> None:
    """Train and measure the original and the retrained model of a sweep, and keep them for its runs."""
    with user_errors():
        start(load(file, overrides, name), file, storage, None, only_prepare=True)


@app.command(rich_help_panel=PANEL)
def run(
    file: File,
    overrides: Overrides = None,
    name: Name = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Run a sweep, or resume one that was interrupted."""
    with user_errors():
        start(load(file, overrides, name), file, storage, tracking_uri, only_prepare=False)


@app.command(rich_help_panel=PANEL)
def extend(
    sweep: Sweep,
    trials: Annotated[
        str | None, typer.Option("--trials", metavar="+N", help="More trials (+20), or a new total (64).")
    ] = None,
    wall_time_s: Annotated[
        str | None, typer.Option("--wall-time-s", metavar="+S", help="More wall time, or a new total.")
    ] = None,
    worker_hours: Annotated[
        str | None, typer.Option("--worker-hours", metavar="+H", help="More worker-hours, or a new total.")
    ] = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Raise a sweep's number of trials or its budget, and resume it."""
    with user_errors():
        from search_spaces.loading.changed_settings import extended

        folder, settings, _ = open_named(sweep, storage)
        options = {
            "search.trials": trials,
            "budget.wall_time_s": wall_time_s,
            "budget.worker_hours": worker_hours,
        }
        longer = extended(settings, {key: text for key, text in options.items() if text is not None})
        start(longer, str(folder.settings), storage, tracking_uri, only_prepare=False)


@app.command(rich_help_panel=PANEL)
def stop(sweep: Sweep, storage: Storage = None) -> None:
    """Stop a running sweep: its trials end at their next rung, and no result is lost."""
    with user_errors():
        folder, settings, _ = open_named(sweep, storage)
        if not folder.is_locked():
            raise UserError(
                "no driver is running this sweep",
                key="SWEEP",
                value=sweep,
                remedy=f"see `lethe status {sweep}`",
            )
        # The driver may run on another machine: a file in the shared folder reaches it, a signal would not.
        folder.stop_request.touch()
        say(
            screen(),
            f"{settings.name} is stopping: running trials end at their next rung; the command that started it"
            " resumes it",
        )


@app.command(rich_help_panel=PANEL)
def confirm(
    sweep: Sweep,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="New seeds for each member.")] = 5,
    trial: Members = "front",
    pick: Annotated[str | None, old_spelling("--pick")] = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Run members of the front again under new seeds, to see how much of their results was luck."""
    with user_errors():
        folder, settings, _ = open_named(sweep, storage)
        with sweep_session(settings, str(folder.settings), storage, tracking_uri) as session:
            from orchestrator.sweep.followup_runs import confirm_members

            confirmations = confirm_members(session, pick or trial, seeds)
        failed = sum(confirmation.reason is not None for confirmation in confirmations)
        say(screen(), f"{len(confirmations)} repetitions, {failed} failed")
        say(screen(), f"report: {folder.path / 'report.html'}")


def start(
    sweep: "SweepSettings", file: str, storage: Path | None, tracking_uri: str | None, *, only_prepare: bool
) -> None:
    """Runs a sweep, or only prepares its baselines, and prints the result.

    Args:
        sweep: Settings of the sweep.
        file: The sweep file, for messages.
        storage: Folder of all sweeps, if one was given.
        tracking_uri: MLflow's server or store, if one was given.
        only_prepare: Whether to stop before the first trial.

    Raises:
        UserError: The data, the models or the cluster do not allow the sweep, or its lanes were lost.
    """
    console, workers = screen(), sweep.resources.workers_per_trial
    size = f"{sweep.search.trials} trials, {workers} ZeRO-3 workers each"
    say(console, f"{sweep.name}: {size}. {sweep.description}")
    # Loaded before Ray, so that a mistake in the data is reported at once; the session uses it as it is.
    benchmark = load_data(sweep, file)
    with sweep_session(sweep, file, storage, tracking_uri, benchmark=benchmark) as session:
        from orchestrator.sweep.followup_runs import prepare_baselines
        from orchestrator.sweep.sweep_run import run_sweep

        plan = prepare_baselines(session) if only_prepare else None
        records = [] if only_prepare else run_sweep(session)
    if plan is not None:
        retrained = plan.retrained.folder if plan.retrained else "none"
        say(console, f"original: {plan.original.folder}\nretrained: {retrained}")
        return
    from orchestrator.pareto.sweep_view import read_view
    from orchestrator.terminal.closing_lines import closing_lines

    view = read_view(session.folder, sweep, records)
    for line in closing_lines(view, session.folder, session.tracking_uri):
        say(console, line)


@contextmanager
def sweep_session(
    sweep: "SweepSettings",
    file: str,
    storage: Path | None,
    tracking_uri: str | None,
    *,
    benchmark: "Benchmark | None" = None,
    quiet_stdout: bool = False,
) -> "Iterator[Session]":
    """Yields a session in which the sweep's jobs can run, and shows its progress meanwhile.

    Args:
        sweep: Settings of the sweep.
        file: The sweep file, for messages.
        storage: Folder of all sweeps, if one was given.
        tracking_uri: MLflow's server or store, if one was given.
        benchmark: The data set, if it was loaded before.
        quiet_stdout: Whether progress is shown on stderr, because stdout carries JSON.

    Raises:
        UserError: A hub model is not accessible. Nothing was started.
    """
    from orchestrator.pareto.objectives import criteria_of
    from orchestrator.search.sweep_state import SweepState
    from orchestrator.storage.sweep_folder import SweepFolder, storage_root
    from orchestrator.terminal.live_progress import LiveProgress

    # A missing model would otherwise fail in every worker, after minutes.
    check_hub(sweep, file)
    root = storage_root(storage)
    folder, console = SweepFolder(root, sweep.name), screen(stderr=quiet_stdout)
    say(console, f"sweep folder: {folder.path}")
    sweep_state = SweepState(criteria_of(sweep), sweep.resources.workers_per_trial)
    with LiveProgress(console, sweep_state, sweep.search.trials) as progress:
        # These imports take seconds, so they come after the first line of progress.
        progress.stage("loading Ray, Optuna and MLflow")
        from orchestrator.sweep.session import Session
        from orchestrator.tracking.tracking_store import default_tracking_uri

        # MLflow's own variable, which its clients read as well.
        uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(root)
        yield Session(sweep, file, folder, uri, progress, loaded=benchmark)
