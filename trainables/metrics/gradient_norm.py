"""GradNorm, the membership attack that needs a backward pass: text that a model knows hardly pulls at its weights."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trainables.data.encoding import Encoded


def gradient_norm(model: PreTrainedModel, item: Encoded) -> float | None:
    """Score of the GradNorm attack on one item, low for a member.

    The gradient is that of the mean loss per answer token, the end token left out; its 2-norm is taken for each parameter tensor by
    itself, and the norms are averaged: a head of a hundred million weights counts as much as a bias. A backward pass per item makes
    it as slow as training, so no evaluation of a policy takes it.

    Args:
        model: A whole model, not sharded, in the mode (training, evaluation) in which it is to be attacked. Its `.grad` is left alone.
        item: The example.

    Returns:
        The mean norm; None where the answer is its end token alone.

    Source: arXiv 2402.17012; OU (p = 2). Deviation: OU takes the norms in the model's own precision.
    """
    content = item.content
    if not content:
        return None
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        # The last content token is a target only.
        ids_BL = torch.tensor([item.ids[: item.prompt_length + len(content) - 1]], device=model.device)
        logits_LV = _at_least_float32(model(input_ids=ids_BL, use_cache=False).logits[0, item.prompt_length - 1 :])
        loss = torch.nn.functional.cross_entropy(logits_LV, torch.tensor(content, device=model.device))
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return float(torch.stack([_at_least_float32(gradient).norm() for gradient in gradients if gradient is not None]).mean())


def _at_least_float32(tensor: Tensor) -> Tensor:
    # Norms in bfloat16 have three digits, and ties decide AUCs.
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
