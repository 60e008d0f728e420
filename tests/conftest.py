"""Settings of every test process, in force before torch is imported."""

import gc
import os

import pytest

from tests.support.processes.shares import worker_of

# Two cores: one thread each in the processes that tests start, and no thread pools that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# The libraries fill a process with objects that stay. Looking through them for garbage every few hundred
# allocations takes a fifth of the time of their import, and more later.
gc.set_threshold(100_000, 50, 50)


def pytest_collection_finish(session):
    """Let the garbage collector pass over what the imports have made."""
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Under `--dist each`, each xdist worker collects its share of the test files alone."""
    node.workerinput["shares"] = node.config.getvalue("dist") == "each"


def pytest_ignore_collect(collection_path, config):
    """Leave the files of other workers alone."""
    worker = getattr(config, "workerinput", {})
    if worker.get("shares") and collection_path.suffix == ".py":
        mine = int(worker["workerid"].removeprefix("gw"))
        if worker_of(collection_path, worker["workercount"]) != mine:
            return True
    return None
