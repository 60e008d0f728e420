"""One process with one whole model, with the interface of an engine that sampling and scoring use."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainables.engine.cuda_graph_decoding import StaticSteps
from trainables.engine.policy import Policy


class SingleProcessModel:
    """An engine of one rank for inference only, used outside of trials.

    Args:
        model: The model, on its device.
        tokenizer: Tokenizer of the model.
    """

    rank, world_size = 0, 1

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model, self.tokenizer = model, tokenizer
        self.device, self.hf_config = model.device, model.config
        # The place where `Inference` keeps captured decode steps between batches.
        self.captured_steps: StaticSteps | None = None

    def plain_model(self, weights: str = "policy") -> PreTrainedModel:
        """Return the only model that this process holds, whatever `weights` says."""
        return self._model

    @contextmanager
    def lockstep_module(self, weights: str = "policy") -> Iterator[Policy]:
        """Open the model as an engine opens its shards; here nothing is sharded."""
        with torch.no_grad():
            yield Policy(self._model)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the values themselves: the sums over one rank."""
        return list(values)

    def gather(self, items: list[Any]) -> list[Any]:
        """Return the items themselves: those of the only rank."""
        return items


def best_device() -> str:
    """Return `cuda` on machines with a GPU, otherwise `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"
