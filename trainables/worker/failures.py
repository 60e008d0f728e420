"""What an exception in a worker says about the job that it ended: its own fault, another rank's, or the
machine's."""

import re

import torch
import torch.distributed as dist

from search_spaces.full_disk import full_disk
from search_spaces.user_errors import UserError
from trainables.events import Failed, Lost

OUT_OF_MEMORY_REMEDY = (
    "lower trial.optimizer.micro_batch, turn trial.engine.activation_checkpointing on, or raise"
    " resources.workers_per_trial"
)


def outcome_of(error: Exception) -> Failed | Lost | None:
    """Return the outcome of a job that an exception has ended.

    Returns:
        `Failed`; `Lost` where the disk is full, since the job did nothing wrong; None where another rank is
        to blame: that rank reports its own exception, or is dead, which shows by itself.
    """
    if another_rank_is_gone(error):
        return None
    if (full := full_disk(error)) is not None:
        return Lost(str(full))
    return Failed(describe_failure(error))


def another_rank_is_gone(error: Exception) -> bool:
    """Whether a collective failed because not all ranks were there."""
    if lacks_memory(error):
        return False  # NCCL reports missing memory for its buffers by its own exceptions
    # NCCL has exceptions of its own. Gloo's are plain, but their text names its source files.
    return isinstance(error, dist.DistError) or re.search(r"\bgloo\b|\bNCCL\b", str(error)) is not None


def lacks_memory(error: Exception) -> bool:
    """Whether the device or the machine had too little memory."""
    text = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "can't allocate memory" in text
        or "out of memory" in text.lower()
    )


def describe_failure(error: Exception) -> str:
    """One line that says what happened and what to do."""
    text = str(error).strip()
    if lacks_memory(error):
        return f"out of memory: {OUT_OF_MEMORY_REMEDY}"
    if isinstance(error, UserError):
        return text
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"
