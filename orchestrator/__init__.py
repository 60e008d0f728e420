"""What runs in the driver: the command line, the sweep, the search, tracking and reports."""

import os

# Ray reads it when it is imported. Of a dead worker our own line tells, with its trial and what follows;
# Ray's are paragraphs without it.
os.environ.setdefault(
    "RAY_DEDUP_LOGS_SKIP_REGEX",
    "A worker died or was killed while executing a task|PYTHON worker processes have been started on node",
)
