"""The methods that prefer another answer to the response: losses of pairs, each a function of two numbers,
one per answer.

Everything is minimised. A response is scored either by its log-ratio `S - S_reference` or by the mean
probability of its tokens; the loss of a pair knows nothing but the two scores, so the weight of a token is
the slope of the loss times the score's own derivative.

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
        preferred_P: The same of the preferred answer: an "I don't know" (IdkDPO), or one of the original
            model's own (AltPO).
        beta: Inverse temperature.

    Source: OU; AltPO is arXiv 2409.13474.
    """
    return -2 / beta * logsigmoid(beta * (preferred_P - score_P))


def flat(score_P: Tensor, preferred_P: Tensor, *, divergence: str) -> Tensor:
    """Minus the variational form of an f-divergence between the preferred answer and the response.

    Args:
        score_P: Mean probability of the response's tokens.
        preferred_P: The same of the preferred answer.
        divergence: Key of `DIVERGENCES`.

    Source: FLAT, arXiv 2410.11143, and its code. Deviations: a pair at a time, where the code averages
    probabilities over the batch first, so that results would depend on its size; and over answer tokens,
    where the code averages over padding too.
    """
    activation, conjugate = DIVERGENCES[divergence]
    return conjugate(score_P) - activation(preferred_P)


def _total_variation(score: Tensor) -> Tensor:
    return score.tanh() / 2


def _softplus_of_minus(score: Tensor) -> Tensor:
    return torch.log1p(torch.exp(-score))


_LOG_2 = math.log(2.0)

DIVERGENCES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
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
"""Output activation `g(v)` of each divergence, and its convex conjugate at it, `f*(g(v))`, for `v` a mean
probability.

Source: f-GAN, arXiv 1606.00709, tables 2 and 6; Jeffrey's conjugate is FLAT's series. Deviation: FLAT's code
has `exp(v)` in place of `exp(-v)` in `reverse_kl`, `squared_hellinger` and `neyman`, with which its loss
pushes the response up and the preferred answer down.
"""
