"""Methods whose loss is a function of whole rows of logits: CE-U, UNDIAL and PDU.

Everything is minimised. Keyword arguments are the fields of the method's block of settings. Token beliefs do
not apply to these methods: there is no one-hot target `e_y` that a mixture could replace.

Shape suffixes: N rows (answer tokens), V vocabulary.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.losses.residuals import learning_residual


@dataclass(frozen=True)
class LogitRows:
    """Some rows of the forget set."""

    logits_NV: Tensor
    """Logits of the policy."""
    targets_N: Tensor
    """Target tokens."""
    first_N: Tensor
    """Whether a row is the first of its response."""
    reference_logits_NV: Tensor | None = None
    """Logits of the reference. None for methods that need none."""


@torch.no_grad()
def ceu(rows: LogitRows) -> tuple[Tensor, Tensor]:
    """Cross-entropy unlearning (CE-U): learn the policy's own distribution with the target token removed.

    The first token of each response has no loss.

    Returns:
        Loss of each row in nats, `[N]`, and its gradient `p - softmax(z without the target)` with respect to
        the logits, `[N, V]`.

    Source: arXiv 2503.01224 and OU.
    """
    # A logit of minus infinity gives the target an exact zero; the target is recomputed, hence detached, each
    # step.
    without_NV = rows.logits_NV.scatter(1, rows.targets_N.unsqueeze(1), -math.inf).softmax(dim=-1)
    loss_N, residual_NV = learning_residual(rows.logits_NV.log_softmax(dim=-1), without_NV)
    return loss_N.masked_fill_(rows.first_N, 0.0), residual_NV.masked_fill_(rows.first_N.unsqueeze(1), 0.0)


@torch.no_grad()
def undial(rows: LogitRows, *, beta: float) -> tuple[Tensor, Tensor]:
    """Self-distillation: learn the original model's answer with the logit of the target lowered by `beta`.

    Returns:
        Loss of each row in nats, `[N]`, and its gradient `p - softmax(z_reference - beta * e_y)` with respect
        to the logits, `[N, V]`.

    Source: arXiv 2402.10052 and OU. Deviation: over answer tokens only, where OU averages over the prompt
    too.
    """
    assert rows.reference_logits_NV is not None, "undial needs the reference's logits"
    # A copy: the scatter below works in place, and the caller keeps the reference's logits.
    lowered_NV = rows.reference_logits_NV.clone()
    lowered_NV.scatter_add_(1, rows.targets_N.unsqueeze(1), lowered_NV.new_full((len(lowered_NV), 1), -beta))
    return learning_residual(rows.logits_NV.log_softmax(dim=-1), lowered_NV.softmax(dim=-1))


@torch.no_grad()
def pdu(rows: LogitRows) -> tuple[Tensor, Tensor]:
    """Flatten the logits (PDU): the loss is `(max z - mean z)^2`.

    The training loop (`trainables/training/trial.py`) updates the dual variable that weighs the retain loss.

    Returns:
        Loss of each row, `[N]`, and its gradient `2 * (max - mean) * (e_argmax - 1 / V)` with respect to the
        logits, `[N, V]`.

    Source: arXiv 2506.05314 and OU. Deviation: answer rows, shifted as in every other loss; OU takes all
    rows, prompt and padding included.
    """
    top_N, argmax_N = rows.logits_NV.max(dim=-1)
    margin_N = top_N - rows.logits_NV.mean(dim=-1)
    # The mean spreads the gradient evenly over V tokens and the maximum puts one share on the argmax.
    slope_N1 = (2 * margin_N).unsqueeze(1)
    residual_NV = (-slope_N1 / rows.logits_NV.shape[1]).expand_as(rows.logits_NV).clone()
    return margin_N**2, residual_NV.scatter_add_(1, argmax_N.unsqueeze(1), slope_N1)
