"""`lethe clean`: remove what no sweep needs any more, or one whole sweep."""

from typing import Annotated

import typer

from orchestrator.commands.options import Storage, app, screen, user_errors
from orchestrator.terminal.rich_tables import say

PANEL = "Clean up"


@app.command(rich_help_panel=PANEL)
def clean(
    storage: Storage = None,
    sweep: Annotated[
        str | None, typer.Argument(metavar="[SWEEP]", help="Remove this whole sweep instead.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove the files; without it, only list what would be removed.")
    ] = False,
) -> None:
    """Remove Ray's scratch files and prepared models that no sweep uses, or the sweep of the given name."""
    with user_errors():
        from orchestrator.storage.cleaning import clean_storage
        from orchestrator.storage.sweep_folder import storage_root

        found = clean_storage(storage_root(storage), sweep, remove=yes)
        console, verb = screen(), "removed" if yes else "would remove"
        for item in found:
            say(console, f"{verb} {item.path} ({item.mib:.1f} MiB)")
        if not found:
            say(console, "nothing to remove")
        elif not yes:
            say(console, "give --yes to remove this")
