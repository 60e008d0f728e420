"""Things that are slow to make and that many tests read: each is made once per run, by the xdist worker that
needs it first."""

import os
from pathlib import Path

from filelock import FileLock


def shared_folder(factory) -> Path:
    """The folder that all workers of this run share.

    Args:
        factory: Pytest's `tmp_path_factory`.
    """
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def made_once(factory, name, make):
    """The folder `name`, which `make(folder)` fills in the first worker that needs it; not to be written to.

    A worker that dies while it makes it leaves nothing under the name: `make` fills a folder beside it, which
    is renamed when it is whole.
    """
    home = shared_folder(factory)
    folder = home / name
    if folder.exists():
        return folder
    with FileLock(home / f"{name}.lock"):
        if not folder.exists():
            partial = factory.mktemp(name)
            make(partial)
            partial.rename(folder)
    return folder
