"""Quantisation probe: rounds a model's weights as a deployment would. The only seam to torchao.

Rounding can undo small changes of the weights, and with them unlearning.

Source: arXiv 2410.16454 (4-bit models reveal what unlearning had removed).
"""

import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


@torch.no_grad()
def round_weights(model: PreTrainedModel, bits: int, group: int) -> None:
    """Quantise and dequantise the weights of all linear layers in place.

    The weights keep the model's own precision, since the probe looks at the answers and not at the speed.
    Embeddings and the head are not quantised, as is usual.

    Args:
        model: A whole model, changed in place.
        bits: 8 (symmetric, one scale per row) or 4 (symmetric, one scale per group).
        group: Weights per group at 4 bits; the greatest common divisor with the row length is taken.
    """
    from torchao.quantization import IntxUnpackedToInt8Tensor

    target: torch.dtype = getattr(torch, f"int{bits}")
    head = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head:
            columns = module.in_features
            # A group must divide the row, or torchao refuses the shape.
            block: Any = (1, columns if bits == 8 else math.gcd(columns, group))
            # torchao quantises the weight itself, so the same code serves every model family.
            module.weight.copy_(IntxUnpackedToInt8Tensor.from_hp(module.weight, block, target).dequantize())
