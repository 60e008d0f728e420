"""What all commands share: the app, their common options, one message per mistake, and how a sweep is
found."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from orchestrator.terminal.rich_tables import say
from search_spaces.full_disk import full_disk
from search_spaces.user_errors import UserError

if TYPE_CHECKING:
    from orchestrator.search.study import Study
    from orchestrator.storage.sweep_folder import SweepFolder
    from search_spaces.settings.sweep_settings import SweepSettings
    from trainables.data.examples import Benchmark

app = typer.Typer(
    help="Sweeps LLM unlearning with belief losses over a Ray cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

File = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="Sweep file (YAML); a bare name such as quickstart.yaml is looked up among the shipped ones.",
    ),
]
Sweep = Annotated[str, typer.Argument(metavar="SWEEP", help="Name of a sweep.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one dotted key of the file; may be repeated."),
]
Name = Annotated[str | None, typer.Option("--name", help="Name of the sweep in place of the file's.")]
Storage = Annotated[
    Path | None,
    typer.Option("--storage", help="Folder of all sweeps [default: $LETHE_STORAGE or ./lethe-runs]."),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        help="MLflow server or store [default: $MLFLOW_TRACKING_URI or a SQLite file in the storage folder].",
    ),
]
TRIAL_HELP = 'front, knee, t0007, t0007@2, or conditions such as "utility>=0.5".'
Trial = Annotated[str, typer.Option("--trial", help=TRIAL_HELP)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load(file: str, overrides: list[str] | None, name: str | None) -> "SweepSettings":
    """The settings of a sweep file."""
    from search_spaces.loading.loader import load_sweep

    return load_sweep(Path(file), overrides or (), name)


def load_data(sweep: "SweepSettings", file: str) -> "Benchmark":
    """The data that a sweep names."""
    from trainables.benchmarks.registry import load_benchmark

    try:
        return load_benchmark(sweep.data, redact=sweep.redact)
    except UserError as error:
        raise error.in_file(file) from error


def old_spelling(name: str) -> Any:
    """A hidden option: an earlier name of one that is called otherwise now."""
    return typer.Option(name, hidden=True)


def check_hub(sweep: "SweepSettings", file: str) -> None:
    """Refuse hub models that cannot be had, before any worker starts."""
    from trainables.benchmarks.hub_access import check_models

    try:
        check_models(sweep.model, sweep.evaluation)
    except UserError as error:
        raise error.in_file(file) from error


def open_named(name: str, storage: Path | None) -> "tuple[SweepFolder, SweepSettings, Study]":
    """A sweep by its name: folder, settings, and its study to read."""
    from orchestrator.search.study import Study
    from orchestrator.storage.sweep_folder import open_sweep, storage_root

    folder, settings = open_sweep(storage_root(storage), name)
    return folder, settings, Study.read(folder.journal, settings)


def screen(*, stderr: bool = False) -> Console:
    """Where people read."""
    # Reasons and descriptions hold brackets and colons that are no markup.
    return Console(markup=False, emoji=False, stderr=stderr)


def print_json(value: object) -> None:
    """Print for programs."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn a user error into one message on stderr and exit status 2."""
    try:
        yield
    except UserError as error:
        _fail(error)
    except KeyboardInterrupt:
        say(Console(stderr=True), "interrupted: run the same command again to go on")
        raise typer.Exit(130) from None
    except Exception as error:
        if (told := full_disk(error)) is None:
            raise
        _fail(told)


def _fail(error: UserError) -> NoReturn:
    say(Console(stderr=True), f"error: {error}", style="red")
    raise typer.Exit(2) from error
