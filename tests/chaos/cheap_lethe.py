"""Runs the `lethe` command with lanes whose trials are made up: see `cheap_runner`."""

from functools import partial

from orchestrator.cli import main
from orchestrator.sweep import publisher, session
from tests.chaos.cheap_runner import cheap_worker

# These sweeps last a minute, so a failed call of MLflow is repeated after a second instead of a minute.
publisher.QUIET_S = 1.0
session.Session = partial(session.Session, worker=cheap_worker)  # type: ignore[misc, assignment]

if __name__ == "__main__":
    main()
