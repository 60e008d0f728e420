"""Remove what is no longer wanted."""

from typing import Annotated

import typer

from orchestrator.commands.options import Storage, app, screen, user_errors

PANEL = "Clean up"


@app.command(rich_help_panel=PANEL)
def clean(
    storage: Storage = None,
    sweep: Annotated[str | None, typer.Argument(metavar="[SWEEP]", help="Remove this sweep whole.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without it, only say what would go.")] = False,
) -> None:
    """Remove a sweep, or (without a name) Ray's scratch files and prepared models that no sweep uses."""
    with user_errors():
        from orchestrator.storage.cleaning import clean_storage
        from orchestrator.storage.sweep_folder import storage_root

        clean_storage(storage_root(storage), sweep, yes, screen())
