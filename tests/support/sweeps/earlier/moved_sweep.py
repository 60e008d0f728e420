"""A sweep that the code before the rooms had begun (see `make_earlier_sweep.py`), unpacked where a test wants
it.

A sweep cannot simply be moved: absolute paths are in some of its files, and in what some names are hashed
from. Both are rewritten here, by what the old code hashed and not by today's, so that a name which changes
is missed.
"""

import hashlib
import json
import sqlite3
import tarfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ARCHIVE = Path(__file__).with_name("earlier_sweep.tar.xz")
NAME = "earlier"


@dataclass(frozen=True)
class EarlierSweep:
    """As its driver left it when it was killed, with a confirmation and audits made after that."""

    file: Path
    storage: Path
    ended: dict[str, Any]
    """What the old code ended with: `trials` by number, the `front`, and the `machine`."""

    @property
    def folder(self) -> Path:
        return self.storage / NAME


def unpack_earlier_sweep(folder: Path) -> EarlierSweep:
    """Unpack it into `folder`, as if it had always been there."""
    with tarfile.open(ARCHIVE) as packed:
        packed.extractall(folder, filter="data")
    moved = _moved(json.loads((folder / "hashed.json").read_text()), folder)
    for path in sorted(folder.rglob("*.json")):
        text = _replaced(path.read_text(), moved)
        path.write_text(text)
        path.rename(path.with_name(_replaced(path.name, moved)))
    with closing(sqlite3.connect(folder / "storage" / "mlflow.db")) as store, store:
        for table, column in (("runs", "artifact_uri"), ("experiments", "artifact_location")):
            old, new = next(iter(moved.items()))
            store.execute(f"update {table} set {column} = replace({column}, ?, ?)", (old, new))
    ended = json.loads((folder / "ended.json").read_text())
    return EarlierSweep(folder / "sweep.yaml", folder / "storage", ended)


def _moved(hashed: dict[str, Any], folder: Path) -> dict[str, str]:
    """What takes the place of what: the root first, then the names that are hashed from paths under it."""
    moved = {hashed["root"]: str(folder)}
    for name, made_from in hashed["names"].items():
        moved |= _renamed(json.dumps(made_from, sort_keys=True), moved, name)
    models = [path for path in (folder / "storage" / "models").iterdir() if path.is_dir()]
    weights = (folder / "storage" / NAME / "trials").glob("*/weights/*")
    for path in (*models, *weights):
        before = str(path).replace(str(folder), hashed["root"])
        moved |= _renamed(before, moved, _digest(before)[:8])
    job = json.dumps(hashed["checkpoint"], sort_keys=True)
    return moved | _renamed(job, moved, _digest(job))


def _renamed(hashed: str, moved: dict[str, str], name: str) -> dict[str, str]:
    assert _digest(hashed).startswith(name), "not what the old code hashed"
    return {name: _digest(_replaced(hashed, moved))[: len(name)]}


def _replaced(text: str, moved: dict[str, str]) -> str:
    for old, new in moved.items():
        text = text.replace(old, new)
    return text


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
