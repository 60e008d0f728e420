"""Everything that a rank imports: loaded once, in the process that ranks are forked from."""

import os

# DeepSpeed chooses its accelerator at import.
os.environ.setdefault("DS_ACCELERATOR", "cpu")

from trainables.worker.lane_worker import packages_hidden

with packages_hidden("mlflow", "sklearn"):
    import deepspeed  # noqa: F401

    import trainables.worker.job_runner  # noqa: F401
