"""The `lethe` command itself, with lanes whose trials are made up: see `cheap_runner`."""

from functools import partial

from orchestrator.cli import main
from orchestrator.sweep import publisher as publishing
from orchestrator.sweep import sweep_run as sweep
from tests.chaos.cheap_runner import cheap_worker

# Sweeps of a minute: MLflow is asked again after seconds, where a sweep of days waits a minute.
publishing.QUIET_S = 1.0
sweep.SweepRun = partial(sweep.SweepRun, worker=cheap_worker)  # type: ignore[misc, assignment]

if __name__ == "__main__":
    main()
