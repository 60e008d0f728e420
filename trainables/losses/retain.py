"""Retain losses (NLL and KL to the reference), and the dual variable that weighs the retain loss in PDU.

Shape suffixes: N rows (answer tokens), V vocabulary.
"""

import torch
from torch import Tensor

from search_spaces.settings.trial_settings import TrialSettings
from trainables.losses.residuals import Softmax, target_residual, token_logp


@torch.no_grad()
def nll_residual(
    logits_NV: Tensor, targets_N: Tensor, softmax: Softmax | None = None
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of the targets.

    Args:
        logits_NV: Logits of the policy.
        targets_N: Target tokens.
        softmax: The softmax of the logits, if it was computed before; its buffer becomes the residual.

    Returns:
        Loss of each row in nats, `[N]`, and its gradient `p - e_y` with respect to the logits, `[N, V]`.
    """
    loss_N = -token_logp(logits_NV, targets_N, softmax)
    # A weight of -1 turns the residual that lowers a target into the one that learns it.
    return loss_N, target_residual(logits_NV, targets_N, -torch.ones_like(loss_N), softmax)


@torch.no_grad()
def kl_residual(logits_NV: Tensor, reference_logits_NV: Tensor) -> tuple[Tensor, Tensor]:
    """KL(reference || policy) over the whole vocabulary.

    Returns:
        Loss of each row in nats, `[N]`, and its gradient `p - p_reference` with respect to the logits,
        `[N, V]`.
    """
    logp_NV, reference_logp_NV = logits_NV.log_softmax(dim=-1), reference_logits_NV.log_softmax(dim=-1)
    reference_NV = reference_logp_NV.exp()
    loss_N = (reference_NV * (reference_logp_NV - logp_NV)).sum(dim=-1)
    # In place: at this point four buffers of `[N, V]` exist already.
    return loss_N, logp_NV.exp_().sub_(reference_NV)


def starting_weight(trial: TrialSettings) -> float | None:
    """Return the first value of the dual variable; None for methods without one."""
    return trial.retain.weight if trial.forget.method == "pdu" else None


def next_weight(trial: TrialSettings, weight: float | None, retain_loss: float, epoch: float) -> float | None:
    """Return the dual variable after a step: `max(0, weight + step * (retain loss - allowed))`.

    Args:
        trial: Settings of the trial, with the block `forget.dual`.
        weight: The dual variable before the step; None for methods without one.
        retain_loss: Retain loss of the step in nats per answer token.
        epoch: Epochs completed before the step, possibly a fraction.

    Source: arXiv 2506.05314 and OU.
    """
    dual = trial.forget.dual
    if weight is None or epoch < dual.warmup_epochs:
        return weight
    return max(0.0, weight + dual.step * (retain_loss - dual.allowed_nats))
