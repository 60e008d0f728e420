"""Fetches the system metrics of workers from the job queue, and writes them to files beside the trials' logs.

A thread of its own does this, so that trials never wait for it.
"""

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
"""Seconds between two fetches: MLflow shows the usage of a running trial this late."""

OnSamples = Callable[[set[int]], Future[None]]
"""Sends the new samples of trials, given their numbers; the future ends when they are sent."""
Samples = Mapping[str, Sequence[Mapping[str, Any]]]
"""Samples by name of the job: see `trainables.worker.system_metrics_sampler.Send`."""


@contextmanager
def collect_system_metrics(job_queue: Any, folder: SweepFolder, on_change: OnSamples) -> Iterator[None]:
    """Collect samples while a block runs, and once at its end.

    Args:
        job_queue: Handle of the actor that the workers send their samples to.
        folder: Folder of the sweep.
        on_change: Called with the numbers of the trials that have new samples, but not before its last call
            is done: trials that get samples meanwhile are in the next call.
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


def keep_system_metrics(folder: SweepFolder, samples: Samples) -> set[int]:
    """Write the samples of trials to their files; samples of other jobs are dropped.

    Returns:
        The numbers of the trials whose samples were written; a full disk costs the samples only.
    """
    numbers = set()
    for name, measured in samples.items():
        # Only trials have names like `t0007`; baselines, repetitions and audits have no file for samples.
        if re.fullmatch(r"t\d+", name):
            try:
                append_system_metrics(folder.trial_system_metrics(name), measured)
                numbers.add(int(name[1:]))
            except OSError as error:
                logger.warning("system metrics of %s are lost: %s", name, error)
    return numbers


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
        # MLflow may be slower than the workers. What is still unsent here is sent at the end of the sweep.
        if changed and (sending is None or sending.done()):
            sending = on_change(changed)
            changed = set()
