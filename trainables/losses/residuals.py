"""What every loss is made of: log-probabilities of targets, and the residual that pushes a target down.

A *residual* is the gradient of a loss with respect to the logits of one row. The learning-dynamics analysis
works on the same ones.

Shape suffixes: N rows (answer tokens), S sequences (responses), V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

Weighted = tuple[Tensor, Tensor]
"""`(weight_N, loss_N)`: with the weight held constant, `weight * (e_y - p)` is the gradient of the summed
loss."""


@dataclass(frozen=True)
class TargetStats:
    """What the policy says about the targets of some rows, and about the whole responses that these rows
    belong to."""

    logp_N: Tensor
    """Log-probability of each target in nats."""
    sequence_N: Tensor
    """Index into S of each row's response."""
    lengths_S: Tensor
    """Answer tokens of each whole response."""
    reference_logp_N: Tensor | None = None
    """Log-probability of each target under the reference. None for methods that need no reference."""
    sequence_logp_S: Tensor | None = None
    """Log-probability of each whole response in nats, also of its rows that are not among N. None for methods
    that need no sums."""
    reference_sequence_logp_S: Tensor | None = None
    """The same under the reference."""

    @property
    def lengths_N(self) -> Tensor:
        """Answer tokens of the response of each row."""
        return self.lengths_S[self.sequence_N].to(self.logp_N.dtype)


@dataclass(frozen=True)
class Softmax:
    """The policy of some rows, computed once: passes over the vocabulary are most of what a loss costs beside
    its products."""

    probability_NV: Tensor
    """Whoever makes a residual takes its memory: read it before."""
    log_total_N1: Tensor
    """Logarithm of the sum over the vocabulary of exp(logit)."""


@torch.no_grad()
def softmax_of(logits_NV: Tensor) -> Softmax:
    """Probabilities and the sum that normalises them."""
    probability_NV = logits_NV.softmax(dim=-1)
    # From the likeliest token, whose probability is at least 1 / V: nothing is lost, and a pass with
    # exponentials is saved.
    log_total_N1 = logits_NV.amax(dim=-1, keepdim=True) - probability_NV.amax(dim=-1, keepdim=True).log()
    return Softmax(probability_NV, log_total_N1)


def token_logp(logits_NV: Tensor, targets_N: Tensor, known: Softmax | None = None) -> Tensor:
    """Log-probability of each target in nats.

    `gather`, not indexing: a label of -100 is then an error and not silently the token V - 100.

    Args:
        logits_NV: Logits of the policy.
        targets_N: Target tokens.
        known: Their softmax, where it is there.
    """
    at_target_N1 = targets_N.unsqueeze(1)
    if known is None:
        return logits_NV.log_softmax(dim=-1).gather(1, at_target_N1).squeeze(1)
    return (logits_NV.gather(1, at_target_N1) - known.log_total_N1).squeeze(1)


@torch.no_grad()
def target_residual(
    logits_NV: Tensor, targets_N: Tensor, weight_N: Tensor, known: Softmax | None = None
) -> Tensor:
    """`weight * (e_y - p)`: pushes the target down, whatever weighs it.

    Args:
        logits_NV: Logits of the policy.
        targets_N: Target tokens.
        weight_N: Weight of each row, treated as a constant.
        known: The softmax of the logits, where it is there; it becomes the residual.
    """
    at_target_N1 = targets_N.unsqueeze(1)
    probability_NV = logits_NV.softmax(dim=-1) if known is None else known.probability_NV
    residual_NV = probability_NV.mul_(-weight_N.unsqueeze(1)).scatter_(1, at_target_N1, 0.0)
    # Not 1 - p_y: a memorised token has p_y within a rounding of 1, and what is left is all that pushes it
    # down.
    return residual_NV.scatter_(1, at_target_N1, -residual_NV.sum(dim=-1, keepdim=True))


@torch.no_grad()
def learning_residual(logp_NV: Tensor, mixture_NV: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the policy with a mixture that it is to learn.

    Args:
        logp_NV: Log-probabilities of the policy; not kept.
        mixture_NV: Probabilities that sum to one, treated as constants.

    Returns:
        Loss of each row in nats, and its gradient `p - t` with respect to the logits.
    """
    # A token that the mixture leaves out counts nothing, also where its log-probability is infinite.
    loss_N = -torch.where(mixture_NV > 0, mixture_NV * logp_NV, 0.0).sum(dim=-1)
    return loss_N, logp_NV.exp_().sub_(mixture_NV)


def sums_of_sequences(values_N: Tensor, sequence_N: Tensor, sequences: int) -> Tensor:
    """Sums over the rows of each response, `[S]` in float64."""
    return torch.zeros(sequences, dtype=torch.float64, device=values_N.device).index_add_(
        0, sequence_N, values_N.double()
    )
