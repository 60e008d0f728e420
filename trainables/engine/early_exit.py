"""Ends the forward pass of a decoder after one of its layers; layers above are not run and not gathered."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from search_spaces.user_errors import UserError

FINAL_NORMS = ("norm", "final_layernorm", "ln_f", "final_layer_norm")
"""Names of the norm after the last layer in the model families of transformers."""


@contextmanager
def ends_after(decoder: Any, layer: int) -> Iterator[list[Tensor]]:
    """Let the decoder run up to and including a layer while the context is open.

    The families of transformers loop over as many layers as their configuration says. The layer's output is
    taken at the input of the final norm: a hook on the layer itself would run inside activation
    checkpointing, without an autograd graph.

    Args:
        decoder: Decoder of a causal LM.
        layer: Index of the layer, from 0.

    Yields:
        A list that receives the layer's output `[B, L, H]` at each call of the decoder.

    Raises:
        UserError: The decoder has no such layer, or no final norm under a familiar name.
    """
    depth = decoder.config.num_hidden_layers
    if layer >= depth:
        raise UserError(
            "the model has no such layer",
            key="trial.forget.steering.layer",
            value=layer,
            allowed=f"0 to {depth - 1}",
        )
    seen: list[Tensor] = []
    # In front of ZeRO-3's own hook, which replaces the inputs by ones that belong to the norm's backward
    # pass.
    handle = _final_norm(decoder).register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0]), prepend=True
    )
    # The loop reads the configuration at each call, so no module is removed and ZeRO-3's hooks stay in place.
    decoder.config.num_hidden_layers = layer + 1
    try:
        yield seen
    finally:
        decoder.config.num_hidden_layers = depth
        handle.remove()


def _final_norm(decoder: Any) -> nn.Module:
    for name in FINAL_NORMS:
        if isinstance(norm := getattr(decoder, name, None), nn.Module):
            return norm
    raise UserError(
        "activations cannot be taken from this family of models",
        key="trial.forget.method",
        value=type(decoder).__name__,
        remedy=(
            "use a family with a final norm (Llama, Mistral, Qwen, Phi, OLMo, ...), or another method"
            " than rmu"
        ),
    )
