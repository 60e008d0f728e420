"""GradNorm, the membership attack that needs a backward pass: memorised text gives small gradients."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trainables.data.encoding import Encoded, encode_example
from trainables.data.examples import EvaluationPart
from trainables.metrics.aggregates import ATTACKED
from trainables.metrics.scoring import Scorer


def gradient_norm(model: PreTrainedModel, item: Encoded) -> float | None:
    """Compute the score of the GradNorm attack on one item, low for a member.

    The gradient is that of the mean loss per answer token, the end token left out; its 2-norm is taken for
    each parameter tensor by itself, and the norms are averaged: a head of a hundred million weights counts as
    much as a bias. A backward pass per item makes it as slow as training, so evaluations compute it only with
    `evaluation.gradient_norm`.

    Args:
        model: A whole model, not sharded, in the mode (training, evaluation) in which it is to be attacked.
            Its `.grad` stays as it is.
        item: The encoded example.

    Returns:
        The mean norm; None where the answer is its end token alone.

    Source: arXiv 2402.17012; OU (p = 2). Deviation: OU takes the norms in the model's own precision.
    """
    content = item.content
    if not content:
        return None
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        # The last content token is a target only, so it is not fed.
        ids_BL = torch.tensor([item.ids[: item.prompt_length + len(content) - 1]], device=model.device)
        logits_LV = _at_least_float32(
            model(input_ids=ids_BL, use_cache=False).logits[0, item.prompt_length - 1 :]
        )
        # Position i of the logits predicts token i + 1, hence the slice from the last prompt token.
        loss = torch.nn.functional.cross_entropy(logits_LV, torch.tensor(content, device=model.device))
        # `autograd.grad` writes no `.grad`: the policy's accumulated gradients are left alone. Parameters
        # outside of this pass (unused heads or experts) have none.
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return float(
        torch.stack(
            [_at_least_float32(gradient).norm() for gradient in gradients if gradient is not None]
        ).mean()
    )


def add_gradient_norms(
    scorer: Scorer,
    model: PreTrainedModel,
    part: EvaluationPart,
    items: Mapping[str, Sequence[dict[str, Any]]],
) -> None:
    """Add `gradient_norm` to the items of the attacked sets.

    Args:
        scorer: Gives the rank, the world size, the tokenizer and the gather.
        model: The whole model, frozen or not; left as it was.
        part: Evaluation part of the items.
        items: Items equal on every rank; changed in place, and equal again.

    Ranks: all.
    """
    if not all(part.sets.get(name) for name in ATTACKED):
        return
    pairs = []
    for name in ATTACKED:
        by_id = {example.id: example for example in part.sets[name]}
        pairs += [(by_id[item["id"]], item) for item in items[name]]
    # The evaluation copy of the policy is frozen, and the attack needs the gradient of every parameter.
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        mine = range(scorer.rank, len(pairs), scorer.world_size)
        # Every rank has a whole model here, so the ranks need not step together.
        norms = [
            (index, gradient_norm(model, encode_example(scorer.tokenizer, pairs[index][0]))) for index in mine
        ]
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    for index, norm in scorer.gather(norms):
        pairs[index][1]["gradient_norm"] = norm


def _at_least_float32(tensor: Tensor) -> Tensor:
    # A norm in bfloat16 has three digits, and ties between norms would move the AUC.
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
