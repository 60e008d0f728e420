"""Methods that lower the target's probability: the weight of each token, and the published loss.

Everything is minimised and in nats. The residual of every method is `weight * (e_y - p)`, so a method is
defined by its weight, the derivative of its loss with respect to `log p_y`; token beliefs then replace `e_y`
by a mixture. Keyword arguments are the fields of the method's block of settings.
"""

import torch
from torch.nn.functional import logsigmoid

from trainables.losses.residuals import TargetStats, Weighted


def gradient_ascent(stats: TargetStats) -> Weighted:
    """Gradient ascent on the NLL: minimises the log-likelihood `S(y)`.

    Source: BS eq. 1 (GA) and eq. 2 (GradDiff; its retain loss is a term of its own).
    Deviation: averaged over tokens, as OU does; the equations average over sequences.
    """
    return torch.ones_like(stats.logp_N), stats.logp_N


def npo(stats: TargetStats, *, beta: float) -> Weighted:
    """Negative preference optimisation: `-(2 / beta) * log sigmoid(-beta * (S - S_reference))` per response.

    Args:
        stats: Statistics with whole-response sums of policy and reference.
        beta: Inverse temperature; as it goes to 0 the weight goes to 1, that of gradient ascent.

    Source: BS eq. 3.
    """
    assert stats.sequence_logp_S is not None and stats.reference_sequence_logp_S is not None
    margin_N = (stats.sequence_logp_S - stats.reference_sequence_logp_S)[stats.sequence_N]
    # The weight is the derivative of the loss with respect to S. The loss is spread evenly over the
    # response's rows, so that their sum is the published loss.
    weight_N = 2 * torch.sigmoid(beta * margin_N)
    loss_N = -2 / beta * logsigmoid(-beta * margin_N) / stats.lengths_N
    return weight_N.to(stats.logp_N.dtype), loss_N.to(stats.logp_N.dtype)


def simnpo(stats: TargetStats, *, beta: float, delta: float) -> Weighted:
    """NPO without a reference: `-(2 / beta) * log sigmoid(beta * (-S / length - delta))` per response.

    Args:
        stats: Statistics with whole-response sums of the policy.
        beta: Inverse temperature.
        delta: Margin in nats per token.

    Source: OU.
    """
    assert stats.sequence_logp_S is not None
    margin_N = -stats.sequence_logp_S[stats.sequence_N] / stats.lengths_N - delta
    weight_N = 2 * torch.sigmoid(-beta * margin_N) / stats.lengths_N
    loss_N = -2 / beta * logsigmoid(beta * margin_N) / stats.lengths_N
    return weight_N.to(stats.logp_N.dtype), loss_N.to(stats.logp_N.dtype)


def wga(stats: TargetStats, *, alpha: float) -> Weighted:
    """Weighted gradient ascent: `p_y^alpha * log p_y` per token, the weight held constant.

    Args:
        stats: Statistics; whole-response sums are not needed.
        alpha: Exponent; 0 is gradient ascent.

    Source: BS eq. 4.
    """
    # p^alpha from the log-probability, which is finite where p itself underflows.
    weight_N = (alpha * stats.logp_N).exp()
    return weight_N, weight_N * stats.logp_N


def tnpo(stats: TargetStats, *, beta: float) -> Weighted:
    """Tokenwise NPO: `-(2 / beta) * log sigmoid(-beta * (log p_y - log p_y of the reference))`.

    Args:
        stats: Statistics with the reference's log-probability of each target.
        beta: Inverse temperature.

    Source: G-effect, arXiv 2502.19301. Deviation: its code adds 1e-5 to the weight's denominator; the
    logarithms need none.
    """
    margin_N = _margin(stats)
    return 2 * torch.sigmoid(beta * margin_N), -2 / beta * logsigmoid(-beta * margin_N)


def wtnpo(stats: TargetStats, *, beta: float, alpha: float) -> Weighted:
    """Weighted TNPO: TNPO's weight times `p_y^alpha`, held constant, times `log p_y`.

    Args:
        stats: Statistics with the reference's log-probability of each target.
        beta: Inverse temperature.
        alpha: Exponent; 0 gives TNPO's gradient.

    Source: G-effect, arXiv 2502.19301, as in its code (`w_ins_npo`).
    """
    weight_N = 2 * torch.sigmoid(beta * _margin(stats)) * (alpha * stats.logp_N).exp()
    return weight_N, weight_N * stats.logp_N


def satimp(stats: TargetStats, *, beta1: float, beta2: float) -> Weighted:
    """Saturation and importance: `p_y^beta1 * (1 - p_y)^beta2 * log p_y` per token, the weight held constant.

    Args:
        stats: Statistics; whole-response sums are not needed.
        beta1: Exponent of saturation; 0 with `beta2` 0 is gradient ascent.
        beta2: Exponent of importance: a memorised token, whose `p_y` is 1, has weight 0.

    Source: OU; arXiv 2505.11953.
    """
    # -expm1(log p) is 1 - p without cancellation for memorised tokens.
    weight_N = (beta1 * stats.logp_N).exp() * (-torch.expm1(stats.logp_N)).pow(beta2)
    return weight_N, weight_N * stats.logp_N


def _margin(stats: TargetStats) -> torch.Tensor:
    assert stats.reference_logp_N is not None, "a tokenwise margin needs the reference's log-probabilities"
    # The difference of two nearly equal log-probabilities is taken in float64.
    return (stats.logp_N.double() - stats.reference_logp_N.double()).to(stats.logp_N.dtype)
