"""Token-by-token decoding with fixed shapes, captured once as a CUDA graph.

At the batch sizes of a trial, kernel launches take most of the time of a decode step; a graph replays them.

Shape suffixes: B sequences, C columns of the key-value cache, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig, StaticCache

from trainables.engine.policy import Policy

COLUMNS = 64
"""The cache's columns are a multiple of this, so that batches of similar lengths share one graph."""
CAPTURED = ("llama", "mistral", "qwen2", "qwen3")
"""Values of `model_type` whose decoders never synchronise with the GPU inside a step, as a graph requires."""
STATIC_ROPE = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings that do not depend on the length of the sequence."""


def can_be_captured(config: PretrainedConfig, device: torch.device) -> bool:
    """Whether decode steps of such a model can be captured in a CUDA graph."""
    text = config.get_text_config()
    rope = (getattr(text, "rope_parameters", None) or {}).get("rope_type", "default")
    # Sliding-window and chunked layers keep caches of another shape, which the fixed mask does not describe.
    full = set(getattr(text, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    supported = (
        text.model_type in CAPTURED
        and rope in STATIC_ROPE
        and full
        and getattr(text, "sliding_window", None) is None
    )
    # Only the sdpa form takes the four-dimensional boolean mask that `StaticSteps` keeps.
    return device.type == "cuda" and supported and config._attn_implementation == "sdpa"


class StaticSteps:
    """Decode steps on a key-value cache of fixed size.

    On a GPU a step replays a captured graph; on other devices the same code runs step by step.

    Args:
        call: Runs a function on the unsharded model. The weights may change in place later; the graph reads
            them at their address.
        config: Configuration of the model.
        batch: Number of sequences B.
        columns: Tokens of each sequence that the cache must hold; rounded up to a multiple of `COLUMNS`.
        device: Device of the model.
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
        # A graph reads its inputs at fixed addresses: tokens, positions and mask are buffers that each step
        # writes into.
        self._token_B1 = torch.zeros(batch, 1, dtype=torch.long, device=device)
        self._position_B1 = torch.zeros_like(self._token_B1)
        # transformers passes a mask of four dimensions on as it is. From a mask of two dimensions it would
        # compute one, and that computation synchronises with the GPU.
        self._visible_B11C = torch.zeros(batch, 1, 1, self.columns, dtype=torch.bool, device=device)
        self._graph: Any = None
        self._logits_BV: Tensor | None = None
        self._filled = 0

    def fits(self, batch: int, columns: int) -> bool:
        """Whether the cache holds `columns` tokens of `batch` sequences and is at most twice as wide."""
        # Attention runs over all columns of the cache, so a far too wide one would cost more than a new
        # graph.
        return batch == self.batch and columns <= self.columns <= 2 * -(-columns // COLUMNS) * COLUMNS

    def begin(self, prefilled: DynamicCache, mask_BL: Tensor) -> None:
        """Copy the prompts' keys and values into the fixed cache, and capture the graph if there is none yet.

        Args:
            prefilled: Keys and values of the prompts.
            mask_BL: One at the tokens of prompts, zero at the padding to their left.
        """
        pairs: list[tuple[Any, Any]] = list(zip(self._cache.layers, prefilled.layers, strict=True))
        # A StaticCache allocates at its first use; inside a capture that memory would belong to the graph's
        # pool.
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
            # The cache counts its own tokens on the device, and appends the next ones behind this count.
            mine.cumulative_length.fill_(self._filled)
        self._visible_B11C.zero_()
        self._visible_B11C[:, 0, 0, : self._filled] = mask_BL == 1
        self._position_B1.copy_(mask_BL.sum(1, keepdim=True) - 1)

    def step(self, token_B: Tensor) -> Tensor:
        """Feed the next token of each sequence, `[B]`.

        Returns:
            The logits after it, `[B, V]` in float32. The next step overwrites them.
        """
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
        logits_BV: Tensor = self._call(self._work)
        return logits_BV

    def _work(self, policy: Policy) -> Tensor:
        output = policy.model.get_decoder()(
            input_ids=self._token_B1,
            attention_mask=self._visible_B11C,
            position_ids=self._position_B1,
            past_key_values=self._cache,
            use_cache=True,
        )
        logits_BV: Tensor = policy.head(output.last_hidden_state[:, -1], None)
        return logits_BV

    def _capture(self) -> None:
        """Capture one step in a graph; `begin` overwrites what the capture writes into the cache."""
        # Warm-up on a side stream, as PyTorch's documentation of CUDA graphs requires.
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        # A row of attention that sees nothing would give NaN.
        self._visible_B11C.fill_(True)
        with torch.cuda.stream(aside):
            # Libraries allocate workspaces at their first calls, which must not happen during a capture.
            for _ in range(2):
                self._run()
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits_BV = self._run()
