"""Joins the Ray cluster that the environment names, or starts one on this machine for the time of a
command."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from orchestrator.lanes.sigterm import sigterm_kept, terminating


@contextmanager
def ray_session() -> Iterator[None]:
    """Join the cluster that RAY_ADDRESS names (as inside a Ray job), or start one on this machine and end it
    afterwards."""
    # Rungs carry metrics in a nested form, so Tune's own check for a metric would end the sweep.
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Tune's own handling of Ctrl-C would end the sweep as if it were done: exit status 0, and not a word
    # about it.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    # Tune's CSV, JSON and TensorBoard files of every event: the study and MLflow have it all.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = os.environ.get("RAY_ADDRESS")
    try:
        with sigterm_kept():
            ray.init(
                address=address,
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
            )
        yield
    finally:
        if not terminating():  # then it ends with the process: see orchestrator.lanes.sigterm
            ray.shutdown()
