"""Starts DeepSpeed in a process group, and builds its configuration from a trial's settings."""

import gc
import logging
import os
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from search_spaces.settings.engine_defaults import reduce_bucket


def start_deepspeed() -> None:
    """Join the process group that torchrun or Ray Train announced in the environment. Ranks: all."""
    # DeepSpeed chooses its accelerator at import, so the variable must be set before.
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # A warning per collective and a progress bar per loaded file would bury the trial's own log lines.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    transformers_logging.disable_progress_bar()
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.ERROR)
    if torch.cuda.is_available():
        # The device must be set before DeepSpeed creates communicators. Ray Train has set it already,
        # torchrun only announces it in LOCAL_RANK.
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))

    if not torch.cuda.is_available():
        # The shared-memory operator takes a minute of g++ at first use and serves inference only.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo", verbose=False)


def collect_new_garbage() -> None:
    """Free what the last trial left in cycles, such as tensors in the frames of an exception.

    What is alive then stays out of later runs, which would walk all imported modules for .35 s each.
    """
    gc.collect()
    gc.freeze()


def collect_all_garbage() -> None:
    """Free cycles of any age, such as those of an engine that is no longer used."""
    gc.unfreeze()
    gc.collect()


def deepspeed_config(dtype: str, passed_through: Mapping[str, Any], trained: int) -> dict[str, Any]:
    """Build the configuration of an engine.

    Batch sizes in it are nominal: Lethe itself counts tokens and sequences and divides by them.

    Args:
        dtype: Precision of the working weights, such as `bfloat16`.
        passed_through: The user's `deepspeed` block; its values win.
        trained: Number of trained elements, from which the reduction bucket is sized.
    """
    zero = {
        "stage": 3,
        # With threshold 0 no parameter stays gathered between steps, so that a reset need only write shards.
        "stage3_param_persistence_threshold": 0,
        "stage3_model_persistence_threshold": 0,
        "overlap_comm": False,
        "contiguous_gradients": True,
        "reduce_scatter": True,
        "reduce_bucket_size": reduce_bucket(trained),
    }
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # The caller decides when to step: the number of micro-batches differs from trial to trial.
        "managed_gradient_accumulation": False,
        # TrialOptimizer is not one of DeepSpeed's optimizers, and with offloading DeepSpeed would insist on
        # its own CPU optimizer.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "bf16": {"enabled": dtype == "bfloat16"},
        "zero_optimization": zero,
    }
    # Blocks are merged one level deep: a user who sets one key of `zero_optimization` keeps the others.
    for key, value in passed_through.items():
        config[key] = (
            {**config[key], **value}
            if isinstance(value, Mapping) and isinstance(config.get(key), dict)
            else value
        )
    return config
