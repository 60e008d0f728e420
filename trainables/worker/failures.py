"""What an exception in a worker says about the job that it ended: its own fault, another rank's, or the
machine's."""

import re
from typing import Any

import torch
import torch.distributed as dist

from search_spaces.full_disk import full_disk
from search_spaces.user_errors import UserError

OUT_OF_MEMORY_REMEDY = (
    "lower trial.optimizer.micro_batch, turn trial.engine.activation_checkpointing on, or raise"
    " resources.workers_per_trial"
)


def outcome_of(error: Exception) -> dict[str, Any] | None:
    """What is told about a job that ended with this exception.

    Returns:
        `failed`, or `lost` where the disk is full: the job did nothing wrong, and a resumed sweep runs it.
        None where another rank is
        to blame: that one tells what struck it, or it is dead, which shows by itself.
    """
    if another_rank_is_gone(error):
        return None
    if (told := full_disk(error)) is not None:
        return {"status": "lost", "reason": str(told)}
    return {"status": "failed", "reason": describe_failure(error)}


def another_rank_is_gone(error: Exception) -> bool:
    """Whether a collective failed because not all ranks were there."""
    if lacks_memory(error):
        return False  # NCCL tells so of its own buffers
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
