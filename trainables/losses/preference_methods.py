"""Preference methods: losses of pairs of a forget response and the answer that is preferred to it.

Everything is minimised. A response is scored either by its log-ratio `S - S_reference` or by the mean
probability of its tokens. The loss of a pair is a function of the two scores alone, so the weight of a token
is the slope of the loss times the derivative of the score with respect to the token's log-probability.

Shape suffixes: P pairs.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def dpo(score_P: Tensor, preferred_P: Tensor, *, beta: float) -> Tensor:
    """Direct preference optimisation: `-(2 / beta) * log sigmoid(beta * (preferred - score))`.

    Args:
        score_P: `S - S_reference` of the response, in nats.
        preferred_P: `S - S_reference` of the preferred answer: an "I don't know" line (IdkDPO), or an answer
            that the original model gave (AltPO).
        beta: Inverse temperature.

    Source: OU; AltPO is arXiv 2409.13474.
    """
    return -2 / beta * logsigmoid(beta * (preferred_P - score_P))


def flat(score_P: Tensor, preferred_P: Tensor, *, divergence: str) -> Tensor:
    """Minus the variational form of an f-divergence between the preferred answer and the response (FLAT).

    Args:
        score_P: Mean probability of the response's tokens.
        preferred_P: Mean probability of the preferred answer's tokens.
        divergence: Key of `DIVERGENCES`.

    Source: FLAT, arXiv 2410.11143, and its code. Deviations: the loss is taken for each pair, where the code
    first averages probabilities over the batch, so that results would depend on its size; and means are over
    answer tokens, where the code averages over padding too.
    """
    activation, conjugate = DIVERGENCES[divergence]
    # The variational bound of the divergence is activation(preferred) - conjugate(response); it is maximised.
    return conjugate(score_P) - activation(preferred_P)


def _total_variation(score: Tensor) -> Tensor:
    return score.tanh() / 2


def _softplus_of_minus(score: Tensor) -> Tensor:
    # Scores are mean probabilities in [0, 1], so the exponential cannot overflow.
    return torch.log1p(torch.exp(-score))


_LOG_2 = math.log(2.0)

DIVERGENCES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    # The conjugate of total variation is the identity on [-1/2, 1/2], so it equals the activation.
    "total_variation": (_total_variation, _total_variation),
    "kl": (lambda v: v, lambda v: (v - 1).exp()),
    "reverse_kl": (lambda v: -(-v).exp(), lambda v: v - 1),
    "jeffrey": (lambda v: v, lambda v: v + v**2 / 4 + v**3 / 16),
    "squared_hellinger": (lambda v: 1 - (-v).exp(), torch.expm1),
    "pearson": (lambda v: v, lambda v: v**2 / 4 + v),
    "neyman": (lambda v: 1 - (-v).exp(), lambda v: 2 - 2 * (-v / 2).exp()),
    "jensen_shannon": (
        lambda v: _LOG_2 - _softplus_of_minus(v),
        lambda v: v + _softplus_of_minus(v) - _LOG_2,
    ),
}
"""Output activation `g(v)` of each divergence, and the convex conjugate at it, `f*(g(v))`.

`v` is a mean probability.

Source: f-GAN, arXiv 1606.00709, tables 2 and 6; Jeffrey's conjugate is FLAT's series. Deviation: FLAT's code
has `exp(v)` in place of `exp(-v)` in `reverse_kl`, `squared_hellinger` and `neyman`, with which its loss
pushes the response up and the preferred answer down.
"""
