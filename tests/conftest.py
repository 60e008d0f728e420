"""Settings of every test process, in force before torch is imported."""

import os

import pytest

from tests.support.shares import worker_of

# Two cores: one thread each in the processes that tests start, and no thread pools that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


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
