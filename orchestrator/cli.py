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
        _start(file, overrides, name, storage, None, only_prepare=True)


@app.command()
def run(file: File, overrides: Overrides = None, name: Name = None, storage: Storage = None, tracking_uri: TrackingUri = None) -> None:
    """Run a sweep, or go on with one that was interrupted."""
    with _user_errors():
        _start(file, overrides, name, storage, tracking_uri, only_prepare=False)


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


def _start(
    file: str, overrides: list[str] | None, name: str | None, storage: Path | None, tracking_uri: str | None, *, only_prepare: bool
) -> None:
    console = _out()
    sweep = _load(file, overrides, name)
    console.print(
        f"{sweep.name}: {sweep.search.trials} trials, {sweep.resources.workers_per_trial} ZeRO-3 workers each. {sweep.description}",
        highlight=False,
        soft_wrap=True,
    )
    _load_data(sweep, file)
    from orchestrator.sweep_folder import SweepFolder, storage_root

    root = storage_root(storage)
    folder = SweepFolder(root, sweep.name)
    console.print(f"sweep folder: {folder.path}", highlight=False, soft_wrap=True)
    from orchestrator.live_progress import LiveProgress
    from orchestrator.objectives import objectives_of
    from orchestrator.publishing import closing_lines, default_tracking_uri

    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(root)
    with LiveProgress(console, objectives_of(sweep), sweep.search.trials) as progress:
        progress.stage("loading Ray, Optuna and MLflow")
        from orchestrator.sweep import SweepRun

        sweep_run = SweepRun(sweep, file, folder, uri, progress)
        if only_prepare:
            plan = sweep_run.prepare()
        else:
            records = sweep_run.run()
    if only_prepare:
        console.print(
            f"original: {plan.original.folder}\nretrained: {plan.retrained.folder if plan.retrained else 'none'}",
            highlight=False,
            soft_wrap=True,
        )
        return
    for line in closing_lines(sweep, folder, records, uri):
        console.print(line, highlight=False, soft_wrap=True)


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
