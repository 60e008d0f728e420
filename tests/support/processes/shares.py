"""Which xdist worker runs which test files under `--dist each`.

Loading PyTorch with Transformers takes about ten seconds and MLflow with Ray and the drawing libraries as
long, and under xdist's other modes every worker imports every test file. So the files are dealt out before
they are imported: the even workers take those that need PyTorch, the odd ones all others.

Of the integration tests, the even workers take those that need warm ranks, and the odd ones those that need a
Ray head and finished sweeps, so that two workers make each of these once.
"""

from pathlib import Path

from tests.support.places import ROOT

EVEN = (
    "tests/unit/trainables_tests/",
    "tests/unit/cluster_tests/capacity/",
    "tests/unit/orchestrator_tests/evaluation_logs/test_reference_logs.py",
    "tests/unit/orchestrator_tests/evaluation_logs/test_score_",
    "tests/unit/orchestrator_tests/search/",
    "tests/unit/orchestrator_tests/storage/test_baselines.py",
    "tests/unit/orchestrator_tests/storage/test_prompted.py",
    "tests/unit/orchestrator_tests/terminal/test_cluster_plan_tables.py",
    "tests/integration/ranks/",
    "tests/integration/sweeps/test_lane_pool.py",
    "tests/gpu/",
)
"""How the paths of the even workers' test files begin, relative to the checkout."""


def worker_of(file: Path, workers: int) -> int:
    """Number of the worker that runs a test file.

    Args:
        file: Path of the test file.
        workers: Workers of the run.
    """
    if workers == 1:
        return 0
    name = str(file.relative_to(ROOT))
    side = 0 if name.startswith(EVEN) else 1
    of_side = range(side, workers, 2)
    # A file name's bytes add up to the same number in every process, unlike its hash.
    return of_side[sum(name.encode()) % len(of_side)]
