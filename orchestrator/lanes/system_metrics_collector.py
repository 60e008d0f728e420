"""Fetches from the mailbox what workers measure of themselves, and keeps it beside the trials' logs. Off the
trials' way."""

import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from orchestrator.lanes.sigterm import terminating
from orchestrator.storage.sweep_folder import SweepFolder
from orchestrator.storage.system_metrics_file import append_system_metrics

logger = logging.getLogger(__name__)

COLLECT_EVERY_S = 10.0
"""Seconds between looks: MLflow shows a running trial's use this late."""

OnSamples = Callable[[set[int]], Future[None]]
Samples = Mapping[str, Sequence[Mapping[str, Any]]]


@contextmanager
def collect_system_metrics(job_queue: Any, folder: SweepFolder, on_change: OnSamples) -> Iterator[None]:
    """Collect while a block runs, and once at its end.

    Args:
        mailbox: Actor that the workers send to.
        folder: The sweep's files.
        on_change: Given the numbers of trials with new samples, not again before it has done with the last
            ones.
    """
    ended = threading.Event()
    thread = threading.Thread(
        target=_collect, args=(job_queue, folder, on_change, ended), name="system metrics", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        ended.set()
        if not terminating():
            thread.join(COLLECT_EVERY_S)


def _collect(job_queue: Any, folder: SweepFolder, on_change: OnSamples, ended: threading.Event) -> None:
    changed: set[int] = set()
    sending: Future[None] | None = None
    last = False
    while not last:
        last = ended.wait(COLLECT_EVERY_S)
        try:
            changed |= keep_system_metrics(folder, ray.get(job_queue.take_system_metrics.remote()))
        except RayError as error:
            logger.warning("system metrics are no longer collected: %s", error)
            return
        # MLflow may be slower than the workers; whatever is left at the end goes with the end of the sweep.
        if changed and (sending is None or sending.done()):
            sending, changed = on_change(changed), set()


def keep_system_metrics(folder: SweepFolder, samples: Samples) -> set[int]:
    """Write samples of trials to their files; those of other jobs have no place. Returns: the numbers of the
    trials."""
    numbers = set()
    for name, measured in samples.items():
        if re.fullmatch(r"t\d+", name):
            try:
                append_system_metrics(folder.trial_system_metrics(name), measured)
                numbers.add(int(name[1:]))
            except OSError as error:
                logger.warning("system metrics of %s are lost: %s", name, error)
    return numbers
