"""Sorts the exceptions that end jobs: the job's own fault, another rank's, or the machine's."""

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
"""What a user can do about a job that ran out of memory."""


def outcome_of(error: Exception) -> Failed | Lost | None:
    """Return the outcome of a job that an exception has ended.

    Returns:
        `Failed` in general; `Lost` if the disk is full, since the job did nothing wrong; None if another rank
        is the cause, which either reports its own exception or is dead, and the job queue notices that.
    """
    if another_rank_is_gone(error):
        return None
    if (full := full_disk(error)) is not None:
        return Lost(str(full))
    return Failed(describe_failure(error))


def another_rank_is_gone(error: Exception) -> bool:
    """Return whether a collective failed because another rank did not take part in it."""
    # NCCL raises the same exceptions when there is too little memory for its own buffers.
    if lacks_memory(error):
        return False
    # NCCL has exception classes of its own. Those of Gloo are plain, but their text names its source files.
    return isinstance(error, dist.DistError) or re.search(r"\bgloo\b|\bNCCL\b", str(error)) is not None


def lacks_memory(error: Exception) -> bool:
    """Return whether the device or the machine had too little memory."""
    text = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "can't allocate memory" in text
        or "out of memory" in text.lower()
    )


def describe_failure(error: Exception) -> str:
    """Return one line that says what happened and, if it is known, what to do."""
    text = str(error).strip()
    if lacks_memory(error):
        return f"out of memory: {OUT_OF_MEMORY_REMEDY}"
    if isinstance(error, UserError):
        return text
    first_line = text.splitlines()[0] if text else "no message"
    return f"{type(error).__name__}: {first_line}"
