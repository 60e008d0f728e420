"""Sends what libraries log to a file, since the terminal shows the lines of the command itself."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from search_spaces.full_disk import full_disk

_WITH_OWN_HANDLERS = ("ray", "ray.train", "ray.tune", "ray.air", "mlflow", "alembic")
"""Loggers of libraries that print to the terminal by handlers of their own."""


class _LibraryLog(logging.FileHandler):
    """A log file that drops lines when the disk is full; more important writes report the full disk."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Show no traceback for a line that a full disk has refused."""
        error = sys.exception()
        if error is None or full_disk(error) is None:
            super().handleError(record)

    def close(self) -> None:
        """Close the file, also when what is left in its buffer cannot be written."""
        with suppress(OSError):
            super().close()


@contextmanager
def library_logs(path: Path) -> Iterator[None]:
    """Send what libraries log during a block to a file, and drop Python's warnings.

    Args:
        path: The log file; it is appended to, and its folder is made if needed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _LibraryLog(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    # MLflow is imported later, on the tracking thread, and would then add a handler that prints.
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    root = logging.getLogger()
    root.addHandler(handler)
    loggers = [logging.getLogger(name) for name in _WITH_OWN_HANDLERS]
    saved = [(logger, logger.handlers[:], logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers = []
        logger.propagate = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, handlers, propagate in saved:
            logger.handlers = handlers
            logger.propagate = propagate
        root.removeHandler(handler)
        handler.close()
