"""Starts DeepSpeed in a process group and builds its configuration from a trial's settings."""

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
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # One line per collective and a bar per loaded file say nothing about a trial.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    transformers_logging.disable_progress_bar()
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.ERROR)
    if torch.cuda.is_available():
        # Before anything asks which device is this rank's: Ray Train has said so already, torchrun has not.
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))

    if not torch.cuda.is_available():
        # The shared-memory operator takes a minute of g++ at first use and serves inference only.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo", verbose=False)
    # DeepSpeed collects garbage at every reset and with every frozen reference: .35 s each time to walk all
    # that was imported.
    gc.freeze()


def deepspeed_config(dtype: str, passed_through: Mapping[str, Any], trained: int) -> dict[str, Any]:
    """The configuration of an engine that trains so many elements. Batch sizes are nominal: Lethe counts
    tokens and sequences itself."""
    zero = {
        "stage": 3,
        # Nothing stays gathered between steps, so that writing the shards is writing the weights.
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
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "bf16": {"enabled": dtype == "bfloat16"},
        "zero_optimization": zero,
    }
    for key, value in passed_through.items():
        config[key] = (
            {**config[key], **value}
            if isinstance(value, Mapping) and isinstance(config.get(key), dict)
            else value
        )
    return config
