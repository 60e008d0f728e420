"""The interface of an engine that scoring and sampling use."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from trainables.engine.cuda_graph_decoding import StaticSteps
from trainables.engine.zero3_engine import Weights


class InferenceEngine(Protocol):
    """What scoring and sampling need of an engine: the ZeRO-3 engine, or a whole model in one process."""

    captured_steps: StaticSteps | None
    """CUDA graphs of decoding steps, kept from batch to batch."""

    @property
    def rank(self) -> int:
        """Index of this process among the workers."""

    @property
    def world_size(self) -> int:
        """Number of workers."""

    @property
    def device(self) -> torch.device:
        """Device of the model and its inputs."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Tokenizer of the model."""

    @property
    def hf_config(self) -> PretrainedConfig:
        """Configuration of the model."""

    def plain_model(self, weights: Weights = "policy") -> PreTrainedModel:
        """Return a full copy of the model on this rank. Ranks: all."""

    def lockstep_module(self, weights: Weights = "policy") -> AbstractContextManager[Any]:
        """Open the sharded model. Ranks: all, equally many calls."""

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all ranks. Ranks: all."""

    def gather(self, items: list[Any]) -> list[Any]:
        """Return the items of all ranks, in the order of ranks. Ranks: all."""
