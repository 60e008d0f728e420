"""Token-by-token decoding with fixed shapes, captured once as a CUDA graph: at batch sizes of a trial a step
is mostly launches.

Shape suffixes: B sequences, C columns of the key-value cache, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig, StaticCache

from trainables.engine.policy import Policy

COLUMNS = 64
"""The cache's columns are a multiple of this, so that batches of like lengths share one graph."""
CAPTURED = ("llama", "mistral", "qwen2", "qwen3")
"""Values of `model_type` whose decoders ask nothing of the device in the middle of a step, which a graph
could not hold."""
STATIC_ROPE = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings that do not depend on how long a sequence has become."""


def can_be_captured(config: PretrainedConfig, device: torch.device) -> bool:
    """Whether decode steps of such a model may be held in a CUDA graph."""
    text = config.get_text_config()
    rope = (getattr(text, "rope_parameters", None) or {}).get("rope_type", "default")
    full = set(getattr(text, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    known = (
        text.model_type in CAPTURED
        and rope in STATIC_ROPE
        and full
        and getattr(text, "sliding_window", None) is None
    )
    return device.type == "cuda" and known and config._attn_implementation == "sdpa"


class StaticSteps:
    """Decode steps on a cache of fixed size. On a GPU they are one replayed graph; elsewhere the same code
    runs as it is.

    Args:
        call: Runs something on the unsharded model. Its weights may change in place later on; the graph reads
            them where they lie.
        config: Its configuration.
        batch: Sequences.
        columns: Tokens of each that the cache holds.
        device: Where.
    """

    def __init__(
        self,
        call: Callable[[Any], Any],
        config: PretrainedConfig,
        batch: int,
        columns: int,
        device: torch.device,
    ) -> None:
        self.batch, self.columns = batch, -(-columns // COLUMNS) * COLUMNS
        self._call = call
        self._cache = StaticCache(config, max_cache_len=self.columns)
        self._token_B1 = torch.zeros(batch, 1, dtype=torch.long, device=device)
        self._position_B1 = torch.zeros_like(self._token_B1)
        # A mask of four dimensions is taken by transformers as it is: nothing is worked out from it, and
        # nothing waits for the device.
        self._visible_B11C = torch.zeros(batch, 1, 1, self.columns, dtype=torch.bool, device=device)
        self._graph: Any = None
        self._logits_BV: Tensor | None = None
        self._filled = 0

    def fits(self, batch: int, columns: int) -> bool:
        """Whether so many sequences of at most so many tokens can be decoded, and not many more."""
        return batch == self.batch and columns <= self.columns <= 2 * -(-columns // COLUMNS) * COLUMNS

    def begin(self, prefilled: DynamicCache, mask_BL: Tensor) -> None:
        """Take over what was computed for the prompts.

        Args:
            prefilled: Their keys and values.
            mask_BL: One at the tokens of prompts, zero at the padding to their left.
        """
        pairs: list[tuple[Any, Any]] = list(zip(self._cache.layers, prefilled.layers, strict=True))
        first = pairs[0][1]
        self._cache.early_initialization(
            self.batch, first.keys.shape[1], first.keys.shape[3], first.keys.dtype, first.keys.device
        )
        if self._graph is None and first.keys.is_cuda:
            self._capture()
        self._filled = mask_BL.shape[1]
        for mine, theirs in pairs:
            mine.keys[:, :, : self._filled].copy_(theirs.keys)
            mine.values[:, :, : self._filled].copy_(theirs.values)
            mine.cumulative_length.fill_(self._filled)
        self._visible_B11C.zero_()
        self._visible_B11C[:, 0, 0, : self._filled] = mask_BL == 1
        self._position_B1.copy_(mask_BL.sum(1, keepdim=True) - 1)

    def step(self, token_B: Tensor) -> Tensor:
        """Feed each sequence's next token. Returns: the logits after it, `[B, V]` in float32; the next step
        writes over them."""
        assert self._filled < self.columns, "the cache is full"
        self._token_B1.copy_(token_B.unsqueeze(1))
        self._position_B1 += 1
        self._visible_B11C[:, 0, 0, self._filled] = True
        self._filled += 1
        if self._graph is None:
            return self._run()
        self._graph.replay()
        assert self._logits_BV is not None
        return self._logits_BV

    def _run(self) -> Tensor:
        return self._call(self._work)

    def _work(self, policy: Policy) -> Tensor:
        output = policy.model.get_decoder()(
            input_ids=self._token_B1,
            attention_mask=self._visible_B11C,
            position_ids=self._position_B1,
            past_key_values=self._cache,
            use_cache=True,
        )
        return policy.head(output.last_hidden_state[:, -1], None)

    def _capture(self) -> None:
        """Hold one step in a graph. What it writes into the cache meanwhile is written over before anybody
        reads it."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        self._visible_B11C.fill_(True)
        with torch.cuda.stream(aside):
            for _ in range(2):  # libraries allocate at first use, which a graph must not hold
                self._run()
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits_BV = self._run()
