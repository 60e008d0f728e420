"""One process with one whole model, behind the part of an engine that sampling and scoring see: for looking
at models outside of trials."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


class SingleProcessModel:
    """An engine of one rank that trains nothing.

    Args:
        model: The model, on its device.
        tokenizer: Its tokenizer.
    """

    rank, world_size = 0, 1

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model, self.tokenizer = model, tokenizer
        self.device, self.hf_config = model.device, model.config
        self.captured_steps = None

    def plain_model(self, weights: str = "policy") -> PreTrainedModel:
        """The model: there is but one."""
        return self._model

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over ranks."""
        return list(values)

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of every rank."""
        return items


def best_device() -> str:
    """`cuda` where there is a GPU, otherwise `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"
