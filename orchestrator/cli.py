"""The command line. Heavy imports happen inside the commands, so that `lethe --help` answers at once."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from search_spaces.user_errors import UserError

if TYPE_CHECKING:
    from orchestrator.search import Study
    from orchestrator.sweep import SweepRun
    from orchestrator.sweep_folder import SweepFolder
    from search_spaces.sweep_settings import SweepSettings
    from trainables.data.examples import Benchmark

app = typer.Typer(
    help="Sweeps LLM unlearning with belief losses over a Ray cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

File = Annotated[
    str, typer.Argument(metavar="FILE", help="Sweep file (YAML); a bare name such as quickstart.yaml is looked up among the shipped ones.")
]
Sweep = Annotated[str, typer.Argument(metavar="SWEEP", help="Name of a sweep.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one dotted key of the file; may be repeated.")
]
Name = Annotated[str | None, typer.Option("--name", help="Name of the sweep in place of the file's.")]
Storage = Annotated[Path | None, typer.Option("--storage", help="Folder of all sweeps [default: $LETHE_STORAGE or ./lethe-runs].")]
TrackingUri = Annotated[
    str | None,
    typer.Option("--tracking-uri", help="MLflow server or store [default: $MLFLOW_TRACKING_URI or a SQLite file in the storage folder]."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def validate(file: File, overrides: Overrides = None, name: Name = None) -> None:
    """Check a sweep file and the data it names."""
    with _user_errors():
        sweep = _load(file, overrides, name)
        benchmark = _load_data(sweep, file)
        examples = f"{len(benchmark.forget)} forget, {len(benchmark.retain)} retain examples"
        _out().print(
            f"{file}: valid. {sweep.search.trials} trials over {len(sweep.space)} keys; {examples}.", highlight=False, soft_wrap=True
        )


@app.command()
def plan(file: File, overrides: Overrides = None, name: Name = None, storage: Storage = None) -> None:
    """Show the space, sampled trials, lanes and what would be prepared. Starts nothing."""
    with _user_errors():
        from orchestrator.plan_view import show_plan
        from orchestrator.sweep_folder import storage_root

        sweep = _load(file, overrides, name)
        show_plan(sweep, file, _load_data(sweep, file), storage_root(storage), _out())


@app.command()
def prepare(file: File, overrides: Overrides = None, name: Name = None, storage: Storage = None) -> None:
    """Train and measure the models that a sweep stands on, and keep them for its runs."""
    with _user_errors():
        _start(_load(file, overrides, name), file, storage, None, only_prepare=True)


@app.command()
def run(file: File, overrides: Overrides = None, name: Name = None, storage: Storage = None, tracking_uri: TrackingUri = None) -> None:
    """Run a sweep, or go on with one that was interrupted."""
    with _user_errors():
        _start(_load(file, overrides, name), file, storage, tracking_uri, only_prepare=False)


@app.command()
def extend(
    sweep: Sweep,
    trials: Annotated[str | None, typer.Option("--trials", metavar="+N", help="More trials (+20), or a new total (64).")] = None,
    wall_time_s: Annotated[str | None, typer.Option("--wall-time-s", metavar="+S", help="More wall time, or a new total.")] = None,
    worker_hours: Annotated[str | None, typer.Option("--worker-hours", metavar="+H", help="More worker-hours, or a new total.")] = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Raise a sweep's number of trials or its budget, and go on with it."""
    with _user_errors():
        from orchestrator.extension import extended

        folder, settings, _ = _open(sweep, storage)
        wished = {"search.trials": trials, "budget.wall_time_s": wall_time_s, "budget.worker_hours": worker_hours}
        longer = extended(settings, {key: text for key, text in wished.items() if text is not None})
        _start(longer, str(folder.settings), storage, tracking_uri, only_prepare=False)


@app.command()
def stop(sweep: Sweep, storage: Storage = None) -> None:
    """Ask a running sweep to end: its trials stop at their next rung, and nothing is lost."""
    with _user_errors():
        folder, settings, _ = _open(sweep, storage)
        if not folder.is_locked():
            raise UserError("no driver is running this sweep", key="SWEEP", value=sweep, remedy=f"see `lethe status {sweep}`")
        folder.stop_request.touch()
        _out().print(
            f"asked {settings.name} to stop: running trials end at their next rung; the same command goes on later", highlight=False
        )


@app.command()
def confirm(
    sweep: Sweep,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="New seeds for each member.")] = 5,
    picked: Annotated[str, typer.Option("--pick", help='front, knee, t0007, t0007@2, or conditions such as "utility>=0.5".')] = "front",
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Run members of the front again under new seeds: how much of it was luck?"""
    with _user_errors():
        folder, settings, _ = _open(sweep, storage)
        with _sweep_run(settings, str(folder.settings), storage, tracking_uri) as run:
            confirmations = run.confirm(picked, seeds)
        failed = sum(confirmation.reason is not None for confirmation in confirmations)
        _out().print(
            f"{len(confirmations)} repetitions, {failed} failed\nreport: {folder.path / 'report.html'}", highlight=False, soft_wrap=True
        )


@app.command()
def compare(
    sweeps: Annotated[list[str], typer.Argument(metavar="SWEEP SWEEP...", help="Names of sweeps; the first one's reference point counts.")],
    storage: Storage = None,
    as_json: AsJson = False,
    png: Annotated[Path | None, typer.Option("--png", metavar="FILE", help="Also draw all fronts into one picture.")] = None,
) -> None:
    """Set sweeps side by side: hypervolumes with intervals, best values, worker-hours."""
    with _user_errors():
        from orchestrator.comparison import compare as compare_views
        from orchestrator.comparison import data_digest, read_view
        from orchestrator.comparison_view import comparison_json, draw_comparison, show_comparison

        opened = [_open(name, storage) for name in sweeps]
        views = [read_view(folder, settings, study.records()) for folder, settings, study in opened]
        comparison = compare_views(views, [data_digest(settings) for _, settings, _ in opened])
        if png is not None:
            draw_comparison(png, comparison)
        if as_json:
            _print_json(comparison_json(comparison))
        else:
            show_comparison(comparison, _out())
            if png is not None:
                _out().print(f"picture: {png}", highlight=False, soft_wrap=True)


@app.command(name="simulate")
def simulate_sweep(
    file: File,
    overrides: Overrides = None,
    name: Name = None,
    lanes: Annotated[int, typer.Option("--lanes", min=1, help="Trials at a time.")] = 1,
    storage: Storage = None,
) -> None:
    """Run a closed-world sweep on recorded learning curves and a virtual clock: seconds in place of hours."""
    with _user_errors():
        from orchestrator.simulation.simulate import simulate
        from orchestrator.sweep_folder import storage_root

        simulate(_load(file, overrides, name), file, storage_root(storage), lanes, _out())


@app.command()
def status(sweep: Sweep, storage: Storage = None, as_json: AsJson = False) -> None:
    """Show the trials of a sweep, also while it runs."""
    with _user_errors():
        from orchestrator.sweep_view import show_status, status_json

        _, settings, study = _open(sweep, storage)
        if as_json:
            _print_json(status_json(settings, study.records()))
        else:
            show_status(settings, study.records(), _out())


@app.command()
def front(
    sweep: Sweep,
    storage: Storage = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Show the Pareto front of a sweep."""
    with _user_errors():
        from orchestrator.publishing import sweep_front
        from orchestrator.sweep_view import front_csv, show_front

        folder, settings, study = _open(sweep, storage)
        found = sweep_front(settings, folder, study.records())
        if as_json:
            _print_json(found)
        elif as_csv:
            sys.stdout.write(front_csv(found))
        else:
            show_front(found, _out())


@app.command()
def report(sweep: Sweep, storage: Storage = None) -> None:
    """Write the report of a sweep again from its study."""
    with _user_errors():
        from orchestrator.publishing import write_sweep_report

        folder, settings, study = _open(sweep, storage)
        html, png = write_sweep_report(settings, folder, study)
        _out().print(f"report: {html}\npicture: {png}", highlight=False, soft_wrap=True)


@app.command()
def logs(
    sweep: Sweep, trial: Annotated[str, typer.Argument(metavar="TRIAL", help="Trial id, such as t0003.")], storage: Storage = None
) -> None:
    """Print the log of one trial."""
    with _user_errors():
        folder, _, study = _open(sweep, storage)
        log = folder.trial_log(trial)
        if not log.is_file():
            from search_spaces.user_errors import did_you_mean

            known = [record.trial_id for record in study.records()]
            raise UserError(
                f"there is no log of this trial.{did_you_mean(trial, known)}",
                key="TRIAL",
                value=trial,
                allowed=", ".join(known) or "none yet",
            )
        sys.stdout.write(log.read_text())


@app.command()
def clean(
    storage: Storage = None,
    sweep: Annotated[str | None, typer.Argument(metavar="[SWEEP]", help="Remove this sweep whole.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without it, only say what would go.")] = False,
) -> None:
    """Remove a sweep, or (without a name) Ray's scratch files and prepared models that no sweep uses."""
    with _user_errors():
        from orchestrator.cleaning import clean_storage
        from orchestrator.sweep_folder import storage_root

        clean_storage(storage_root(storage), sweep, yes, _out())


def main() -> None:
    """Entry point of the `lethe` command."""
    app()


def _start(sweep: "SweepSettings", file: str, storage: Path | None, tracking_uri: str | None, *, only_prepare: bool) -> None:
    console = _out()
    console.print(
        f"{sweep.name}: {sweep.search.trials} trials, {sweep.resources.workers_per_trial} ZeRO-3 workers each. {sweep.description}",
        highlight=False,
        soft_wrap=True,
    )
    _load_data(sweep, file)
    with _sweep_run(sweep, file, storage, tracking_uri) as run:
        if only_prepare:
            plan = run.prepare()
        else:
            records = run.run()
    if only_prepare:
        retrained = plan.retrained.folder if plan.retrained else "none"
        console.print(f"original: {plan.original.folder}\nretrained: {retrained}", highlight=False, soft_wrap=True)
        return
    from orchestrator.publishing import closing_lines

    for line in closing_lines(sweep, run.folder, records, run.tracking_uri):
        console.print(line, highlight=False, soft_wrap=True)


@contextmanager
def _sweep_run(sweep: "SweepSettings", file: str, storage: Path | None, tracking_uri: str | None) -> "Iterator[SweepRun]":
    """A start of a sweep, its progress shown meanwhile."""
    from orchestrator.ledger import Ledger
    from orchestrator.live_progress import LiveProgress
    from orchestrator.objectives import criteria_of
    from orchestrator.sweep_folder import SweepFolder, storage_root

    root = storage_root(storage)
    folder, console = SweepFolder(root, sweep.name), _out()
    console.print(f"sweep folder: {folder.path}", highlight=False, soft_wrap=True)
    ledger = Ledger(criteria_of(sweep), sweep.resources.workers_per_trial)
    with LiveProgress(console, ledger, sweep.search.trials) as progress:
        progress.stage("loading Ray, Optuna and MLflow")
        from orchestrator.publishing import default_tracking_uri
        from orchestrator.sweep import SweepRun

        uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(root)
        yield SweepRun(sweep, file, folder, uri, progress)


def _load(file: str, overrides: list[str] | None, name: str | None) -> "SweepSettings":
    from search_spaces.loader import load_sweep

    return load_sweep(Path(file), overrides or (), name)


def _load_data(sweep: "SweepSettings", file: str) -> "Benchmark":
    from trainables.data.benchmarks import load_benchmark

    try:
        return load_benchmark(sweep.data)
    except UserError as error:
        raise error.in_file(file) from error


def _open(name: str, storage: Path | None) -> "tuple[SweepFolder, SweepSettings, Study]":
    from orchestrator.search import Study
    from orchestrator.sweep_folder import open_sweep, storage_root

    folder, settings = open_sweep(storage_root(storage), name)
    return folder, settings, Study.read(folder.journal, settings)


def _out() -> Console:
    # Reasons and descriptions hold brackets and colons that are no markup.
    return Console(markup=False, emoji=False)


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


@contextmanager
def _user_errors() -> Iterator[None]:
    """Turn a user error into one message on stderr and exit status 2."""
    try:
        yield
    except UserError as error:
        _fail(error)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted: run the same command again to go on", highlight=False)
        raise typer.Exit(130) from None


def _fail(error: UserError) -> NoReturn:
    Console(stderr=True).print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(2) from error


if __name__ == "__main__":
    main()
