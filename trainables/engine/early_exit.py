"""A decoder that ends after one of its layers: what lies above is neither run nor gathered."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from search_spaces.user_errors import UserError

FINAL_NORMS = ("norm", "final_layernorm", "ln_f", "final_layer_norm")
"""Names that families give to the norm after the last layer."""


@contextmanager
def ends_after(decoder: Any, layer: int) -> Iterator[list[Tensor]]:
    """Let the decoder run no further than a layer.

    The families of transformers loop over as many layers as their configuration says. What the last of them
    gives is taken in front
    of the final norm: a hook on the layer itself would run inside activation checkpointing, without a graph.

    Args:
        decoder: Of a causal LM.
        layer: From 0.

    Yields:
        The layer's output `[B, L, H]`, one for each call of the decoder.

    Raises:
        UserError: The decoder has no such layer, or is of a family that does not end where its configuration
            says.
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
    # First of all hooks: ZeRO-3's own would hand on what belongs to the norm.
    handle = _final_norm(decoder).register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0]), prepend=True
    )
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
