"""Building blocks of all losses: log-probabilities of targets, and residuals.

A *residual* is the gradient of a loss with respect to the logits of one row. The learning-dynamics analysis
uses the same residuals as training.

Shape suffixes: N rows (answer tokens), S sequences (responses), V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

Weighted = tuple[Tensor, Tensor]
"""`(weight_N, loss_N)`: the gradient of the summed loss is `weight * (e_y - p)`, with the weight constant."""


@dataclass(frozen=True)
class TargetStats:
    """Log-probabilities of the targets of some rows, and of the whole responses that these rows belong to."""

    logp_N: Tensor
    """Log-probability of each target in nats."""
    sequence_N: Tensor
    """Index into S of each row's response."""
    lengths_S: Tensor
    """Number of answer tokens of each whole response."""
    reference_logp_N: Tensor | None = None
    """Log-probability of each target under the reference in nats. None for methods that need no reference."""
    sequence_logp_S: Tensor | None = None
    """Summed log-probability of each whole response in nats, including its rows outside of N.

    None for methods that need no sums.
    """
    reference_sequence_logp_S: Tensor | None = None
    """Summed log-probability of each whole response under the reference in nats."""

    @property
    def lengths_N(self) -> Tensor:
        """Number of answer tokens of the response that each row belongs to."""
        return self.lengths_S[self.sequence_N].to(self.logp_N.dtype)


@dataclass(frozen=True)
class Softmax:
    """The softmax of some rows of logits, computed once and shared.

    Passes over the vocabulary are most of what a loss costs beside the matrix products.
    """

    probability_NV: Tensor
    """Probabilities. The residual is computed in place in this buffer: read it before making a residual."""
    log_total_N1: Tensor
    """Log-sum-exp of the logits over the vocabulary."""


@torch.no_grad()
def softmax_of(logits_NV: Tensor) -> Softmax:
    """Compute the softmax of logits `[N, V]` and its log-normaliser."""
    probability_NV = logits_NV.softmax(dim=-1)
    # z_max - log p_max equals the log-sum-exp. p_max is at least 1 / V, so its logarithm loses no precision,
    # and a second pass with exponentials is saved.
    log_total_N1 = logits_NV.amax(dim=-1, keepdim=True) - probability_NV.amax(dim=-1, keepdim=True).log()
    return Softmax(probability_NV, log_total_N1)


def token_logp(logits_NV: Tensor, targets_N: Tensor, softmax: Softmax | None = None) -> Tensor:
    """Return the log-probability of each target in nats, `[N]`.

    Args:
        logits_NV: Logits of the policy.
        targets_N: Target tokens.
        softmax: The softmax of the logits, if it was computed before.
    """
    # `gather`, not indexing: a label of -100 is then an error and not silently the token V - 100.
    at_target_N1 = targets_N.unsqueeze(1)
    if softmax is None:
        return logits_NV.log_softmax(dim=-1).gather(1, at_target_N1).squeeze(1)
    return (logits_NV.gather(1, at_target_N1) - softmax.log_total_N1).squeeze(1)


@torch.no_grad()
def target_residual(
    logits_NV: Tensor, targets_N: Tensor, weight_N: Tensor, softmax: Softmax | None = None
) -> Tensor:
    """Return the residual `weight * (e_y - p)`, `[N, V]`, of a loss that lowers the targets' probability.

    Args:
        logits_NV: Logits of the policy.
        targets_N: Target tokens.
        weight_N: Weight of each row, treated as a constant.
        softmax: The softmax of the logits, if it was computed before; its buffer becomes the residual.
    """
    at_target_N1 = targets_N.unsqueeze(1)
    probability_NV = logits_NV.softmax(dim=-1) if softmax is None else softmax.probability_NV
    residual_NV = probability_NV.mul_(-weight_N.unsqueeze(1)).scatter_(1, at_target_N1, 0.0)
    # The residual at the target is minus the sum over all other tokens, not 1 - p_y: a memorised token has
    # p_y within a rounding of 1, where the difference would cancel to zero and the token would never be
    # unlearned.
    return residual_NV.scatter_(1, at_target_N1, -residual_NV.sum(dim=-1, keepdim=True))


@torch.no_grad()
def learning_residual(logp_NV: Tensor, mixture_NV: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the policy with a target distribution `t` that it is to learn.

    Args:
        logp_NV: Log-probabilities of the policy; the buffer is overwritten.
        mixture_NV: The target distribution, whose rows sum to one; treated as a constant.

    Returns:
        Loss of each row in nats, `[N]`, and its gradient `p - t` with respect to the logits, `[N, V]`.
    """
    # 0 * -inf would be NaN: a token without mass in the target adds nothing even if its log-probability is
    # -inf.
    loss_N = -torch.where(mixture_NV > 0, mixture_NV * logp_NV, 0.0).sum(dim=-1)
    return loss_N, logp_NV.exp_().sub_(mixture_NV)


def sums_of_sequences(values_N: Tensor, sequence_N: Tensor, sequences: int) -> Tensor:
    """Sum values over the rows of each response; `[S]` in float64."""
    # float64, so that a sum over hundreds of tokens does not depend on the order in which chunks add to it.
    return torch.zeros(sequences, dtype=torch.float64, device=values_N.device).index_add_(
        0, sequence_N, values_N.double()
    )
