"""Joins the Ray cluster that the environment names, or starts Ray on this machine for one command."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from orchestrator.lanes.sigterm import keep_sigterm_handler, terminating


@contextmanager
def ray_session() -> Iterator[None]:
    """Join the cluster at RAY_ADDRESS, which a Ray job has set; without it, start Ray on this machine.

    Ray is shut down at the end of the block.
    """
    # Results carry metrics inside of events, so Tune's own check for a metric would end the sweep.
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    # Tune's older output prints nothing with `verbose=0`.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Tune's own handling of Ctrl-C would end the sweep silently with exit status 0, as if it were complete.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    # Tune would write CSV, JSON and TensorBoard files of every event; the study and MLflow hold all of it.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # Ray Train would watch, in a process per lane on the head node, for nodes that are about to go, so that
    # training loops can save. A trial saves at intervals of its own and goes on when a node has gone.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    address = os.environ.get("RAY_ADDRESS")
    try:
        with keep_sigterm_handler():
            ray.init(
                address=address,
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
            )
        yield
    finally:
        # After SIGTERM there is no time for a shutdown: see `orchestrator.lanes.sigterm`.
        if not terminating():
            ray.shutdown()


def alive_nodes() -> set[str]:
    """Return the identifiers of the cluster's nodes that are up."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}
