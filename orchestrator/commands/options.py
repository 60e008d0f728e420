"""The app to which all commands belong, the options that they share, loading, and error messages."""

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
        help="Sweep file (YAML); a bare name such as quickstart.yaml is also looked for in the shipped ones.",
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
    typer.Option("--storage", help="Folder of all sweeps.", show_default="$LETHE_STORAGE or ./lethe-runs"),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        help="MLflow server or store.",
        show_default="$MLFLOW_TRACKING_URI or a SQLite file in the storage folder",
    ),
]
CONDITIONS = 'conditions such as "utility>=0.5"'
Members = Annotated[
    str, typer.Option("--trial", help=f"Members of the front: front, knee, t0007, t0007@2, or {CONDITIONS}.")
]
Rung = Annotated[str, typer.Option("--trial", help=f"One rung: knee, t0007, t0007@2, or {CONDITIONS}.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load(file: str, overrides: list[str] | None, name: str | None) -> "SweepSettings":
    """Loads the settings of a sweep file.

    Args:
        file: Path, or name of a shipped sweep file.
        overrides: Texts of `--set`, such as `search.trials=32`.
        name: A name in place of the file's.

    Raises:
        UserError: The file does not exist or is not valid.
    """
    # pydantic and the settings are imported only by commands that need them.
    from search_spaces.loading.loader import load_sweep

    return load_sweep(Path(file), overrides or (), name)


def load_data(sweep: "SweepSettings", file: str) -> "Benchmark":
    """Loads the data that a sweep names.

    Args:
        sweep: Settings of the sweep.
        file: The sweep file, for messages.

    Raises:
        UserError: The data does not exist or is not valid.
    """
    from trainables.benchmarks.registry import load_benchmark

    try:
        return load_benchmark(sweep.data, redact=sweep.redact)
    except UserError as error:
        raise error.in_file(file) from error


def old_spelling(name: str) -> Any:
    """Returns a hidden option, for the earlier name of an option that was renamed."""
    return typer.Option(name, hidden=True)


def check_hub(sweep: "SweepSettings", file: str) -> None:
    """Checks, before any worker starts, that the sweep's hub models exist and are accessible.

    Raises:
        UserError: A model cannot be downloaded.
    """
    from trainables.benchmarks.hub_access import check_models

    try:
        check_models(sweep.model, sweep.evaluation)
    except UserError as error:
        raise error.in_file(file) from error


def open_named(name: str, storage: Path | None) -> "tuple[SweepFolder, SweepSettings, Study]":
    """Opens a sweep by its name; returns its folder, its settings and its study, for reading.

    Raises:
        UserError: There is no such sweep, or it has not started.
    """
    from orchestrator.search.study import Study
    from orchestrator.storage.sweep_folder import open_sweep, storage_root

    folder, settings = open_sweep(storage_root(storage), name)
    return folder, settings, Study.read(folder.journal, settings)


def screen(*, stderr: bool = False) -> Console:
    """Returns the console on which commands print."""
    # Reasons and descriptions contain brackets and colons that are neither markup nor emoji.
    return Console(markup=False, emoji=False, stderr=stderr)


def print_json(value: object) -> None:
    """Prints a value as JSON on stdout."""
    # Without rich, which would wrap or colour it.
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns a user error, or a full disk, into one message on stderr and exit status 2.

    An interrupt (Ctrl-C) gives exit status 130, as shells expect.

    Raises:
        typer.Exit: The block raised one of these.
    """
    try:
        yield
    except UserError as error:
        _fail(error)
    except KeyboardInterrupt:
        say(Console(stderr=True), "interrupted: run the same command again to go on")
        raise typer.Exit(130) from None
    except Exception as error:
        # A full disk surfaces as another exception in every library; anything else keeps its traceback.
        if (user_error := full_disk(error)) is None:
            raise
        _fail(user_error)


def _fail(error: UserError) -> NoReturn:
    say(Console(stderr=True), f"error: {error}", style="red")
    raise typer.Exit(2) from error
