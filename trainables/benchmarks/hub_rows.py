"""Reads splits from the hub through `datasets`, or tables in the same shape from local folders."""

from collections.abc import Callable
from typing import Any

from search_spaces.settings.dataset_files import Table, missing
from search_spaces.user_errors import UserError
from trainables.benchmarks.hub_access import accept_licence
from trainables.benchmarks.json_rows import Row, read_file


def read_table(table: Table, *columns: str) -> list[Row]:
    """Read the rows of a table.

    Args:
        table: A file, or a split of a data set on the hub.
        columns: Columns that each row should have; they are named in the remedies of errors.

    Raises:
        UserError: The table is missing, cannot be read or is empty, or a row is malformed or lacks a column.
    """
    remedy = f"each row has {', '.join(f'`{column}`' for column in columns)}"
    # Checked first: a missing local file must not be looked up as a data set on the hub.
    if problem := missing(table):
        raise problem
    if table.file is not None:
        return read_file(str(table.file), table.key, f"write objects that follow the public schema: {remedy}")
    found = load_split(
        table.path, table.config, table.split, table.revision, place=table.place, key=table.key
    )
    return [
        Row(f"{table.place}, row {number}", number, dict(values), remedy)
        for number, values in enumerate(found, start=1)
    ]


def load_split(path: str, config: str, split: str, revision: str | None, *, place: str, key: str) -> Any:
    """Load a split of a data set from the hub.

    Args:
        path: Hub id.
        config: Name of the configuration.
        split: Name of the split.
        revision: Branch, tag or commit; the newest when None.
        place: Name of the split in messages.
        key: Setting that names the data set.

    Raises:
        UserError: The split cannot be loaded.
    """
    return loaded(
        lambda datasets: datasets.load_dataset(path, name=config, revision=revision, split=split),
        path,
        place=place,
        key=key,
    )


def loaded(load: Callable[[Any], Any], path: str, *, place: str, key: str) -> Any:
    """Return `load(datasets)`; its errors become a UserError."""
    # `datasets` takes a second to import, and only benchmarks from the hub need it.
    import datasets
    from datasets.exceptions import DatasetsError

    datasets.disable_progress_bars()
    try:
        return load(datasets)
    except (OSError, ValueError, DatasetsError) as error:
        # datasets wraps the hub's GatedRepoError in an error of its own, so only the text tells.
        gated = "gated" in str(error).lower()
        raise UserError(
            f"cannot be read: {error.__cause__ or error}",
            file=place,
            key=key,
            value=path,
            remedy=accept_licence(path, "datasets/")
            if gated
            else "check the path, or the network for a hub id",
        ) from error
