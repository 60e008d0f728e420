"""What runs in the driver: the command line, the sweep, the search, tracking and reports."""

import os

# Ray reads this variable when it is imported. For a worker that died, Lethe prints a line of its own, with
# the trial and what happens next; Ray's paragraphs do not name the trial.
os.environ.setdefault(
    "RAY_DEDUP_LOGS_SKIP_REGEX",
    "A worker died or was killed while executing a task|PYTHON worker processes have been started on node",
)
