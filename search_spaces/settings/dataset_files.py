"""The dataset files of MUSE and WMDP: where each split is, and which are missing. Does not import torch."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from search_spaces.paths import is_local
from search_spaces.settings.data_settings import MuseData, WmdpData
from search_spaces.user_errors import UserError

SUFFIXES = (".json", ".jsonl")


@dataclass(frozen=True)
class Table:
    """One split of one configuration of a dataset."""

    path: str
    """Hub id, or a local folder with one file per configuration and split."""
    config: str
    split: str
    revision: str | None = None
    key: str = "data.path"
    """The setting that `path` comes from."""

    @property
    def file(self) -> Path | None:
        """The local file, whether it exists or not; None for a table of the hub."""
        if not is_local(self.path):
            return None
        # If neither file exists, the first name is the one for messages.
        files = [Path(self.path).expanduser() / self.config / f"{self.split}{suffix}" for suffix in SUFFIXES]
        return next((file for file in files if file.is_file()), files[0])

    @property
    def place(self) -> str:
        """The location of the table, for messages."""
        return f"{self.path}:{self.config}/{self.split}" if self.file is None else str(self.file)


def muse_tables(data: MuseData) -> dict[str, Table]:
    """Returns the tables from which MUSE is read, by role; other splits of the dataset are not needed."""
    # `sust_2` is the split `forget_2` of the configuration `sust`.
    kind, _, number = data.forget.partition("_")
    places = {
        "forget": (kind, f"forget_{number}" if number else "forget"),
        "retain": ("raw", data.retain),
        "other_retain": ("raw", "retain2" if data.retain == "retain1" else "retain1"),
        "forget_knowmem": ("knowmem", "forget_qa"),
        "retain_knowmem": ("knowmem", "retain_qa"),
        "verbmem": ("verbmem", "forget"),
        "forget_attacked": ("privleak", "forget"),
        "retain_attacked": ("privleak", "retain"),
        "holdout_attacked": ("privleak", "holdout"),
    }
    if data.shots:
        places |= {"forget_shots": ("knowmem", "forget_qa_icl"), "retain_shots": ("knowmem", "retain_qa_icl")}
    return {role: Table(data.path, config, split, data.revision) for role, (config, split) in places.items()}


def wmdp_tables(data: WmdpData) -> dict[str, Table]:
    """Returns the tables with the questions of WMDP, and of MMLU if it is set, by name of the set."""
    tables = {"wmdp": Table(data.path, f"wmdp-{data.subset}", "test", data.revision)}
    if data.mmlu is not None:
        tables["mmlu"] = Table(data.mmlu, "all", "test", key="data.mmlu")
    return tables


def missing_tables(tables: Iterable[Table]) -> Iterator[UserError]:
    """Yields the problems of tables in local folders, one per setting."""
    # A wrong path makes all its files missing, so only the first one is reported. Reversed, because later
    # entries of a dict overwrite earlier ones.
    first = {table.key: problem for table in reversed(list(tables)) if (problem := missing(table))}
    yield from first.values()


def missing(table: Table) -> UserError | None:
    """Returns the problem if a table in a local folder is missing; None if it exists, or is on the hub."""
    file, folder = table.file, Path(table.path).expanduser()
    if file is None or file.is_file():
        return None
    layout = "one folder per configuration in it, and in that one .json or .jsonl file per split"
    if not folder.is_dir():
        return UserError(
            "no such folder",
            key=table.key,
            value=table.path,
            remedy=f"give a hub id, or a folder with {layout}",
        )
    return UserError(
        f"the folder has no {file.relative_to(folder)} (nor .jsonl)",
        key=table.key,
        value=table.path,
        remedy=f"give a folder with {layout}",
    )
