"""The only seam to torchao: rounds a model's weights as a deployment would, since rounding can undo small
changes.

Source: arXiv 2410.16454 (4-bit models tell what unlearning had taken away).
"""

import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


@torch.no_grad()
def round_weights(model: PreTrainedModel, bits: int, group: int) -> None:
    """Replace the weights of all linear layers by what their quantised form stands for, in place and in their
    own precision.

    Kept as numbers of the model's own precision, since it is what the model says that is looked at, not its
    speed. Embeddings and the head stay as they are, as is usual.

    Args:
        model: A whole model.
        bits: 8 (symmetric, one scale per row) or 4 (symmetric, one scale per group).
        group: Weights per group at 4 bits; the largest common divisor with the row is taken.
    """
    from torchao.quantization import IntxUnpackedToInt8Tensor

    target: torch.dtype = getattr(torch, f"int{bits}")
    head = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head:
            columns = module.in_features
            block: Any = (1, columns if bits == 8 else math.gcd(columns, group))
            module.weight.copy_(IntxUnpackedToInt8Tensor.from_hp(module.weight, block, target).dequantize())
