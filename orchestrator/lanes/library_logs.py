"""Where the lines of libraries go while a sweep runs: to a file, since the screen is for people."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from search_spaces.full_disk import full_disk


class _LibraryLog(logging.FileHandler):
    """On a full disk it loses lines; whoever needs the room for more than lines says so."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Called where a line could not be written: without this a traceback on the screen."""
        error = sys.exception()
        if error is None or full_disk(error) is None:
            super().handleError(record)

    def close(self) -> None:
        """What is left in the buffer has no room either."""
        with suppress(OSError):
            super().close()


@contextmanager
def library_logs(path: Path) -> Iterator[None]:
    """Send what libraries log to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _LibraryLog(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    # Imported later, on the tracking thread: it would put its own handler on the screen.
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    root = logging.getLogger()
    root.addHandler(handler)
    quiet = [
        logging.getLogger(name) for name in ("ray", "ray.train", "ray.tune", "ray.air", "mlflow", "alembic")
    ]
    before = [(log, log.handlers[:], log.propagate) for log in quiet]
    for log in quiet:
        log.handlers, log.propagate = [], True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, handlers, propagate in before:
            log.handlers, log.propagate = handlers, propagate
        root.removeHandler(handler)
        handler.close()
