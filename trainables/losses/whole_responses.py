"""What rows must know of the whole responses that they belong to: their sums, and their pairs with preferred
answers.

Shape suffixes: N rows (answer tokens), S sequences (responses).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.losses.head_plan import HeadPlan, HeadTerm
from trainables.losses.methods import PreferenceMethod, Score
from trainables.losses.residuals import TargetStats, Weighted, sums_of_sequences


@dataclass(frozen=True)
class WholeResponses:
    """Of the responses of one term. All None where nobody asks."""

    logp_S: Tensor | None = None
    """Log-probability in nats."""
    reference_logp_S: Tensor | None = None
    """The same under the reference."""
    slope_S: Tensor | None = None
    """Derivative of the loss with respect to the response's score, for methods with pairs."""
    loss_S: Tensor | None = None
    """Loss of the response's pair."""

    def weigh(self, stats: TargetStats, score: Score) -> Weighted:
        """Weight and loss of some rows: the slope times the score's derivative with respect to the row's
        log-probability."""
        assert self.slope_S is not None and self.loss_S is not None
        dtype, lengths_N = stats.logp_N.dtype, stats.lengths_N
        slope_N = self.slope_S[stats.sequence_N].to(dtype)
        weight_N = slope_N if score == "log_ratio" else slope_N * stats.logp_N.exp() / lengths_N
        return weight_N, self.loss_S[stats.sequence_N].to(dtype) / lengths_N


def sums_of(term: HeadTerm, logp_N: Tensor) -> WholeResponses:
    """Sums over each response of a term, from the log-probability of all its targets."""
    count, reference_N = len(term.lengths_S), term.reference_logp_N
    reference_S = None if reference_N is None else sums_of_sequences(reference_N, term.sequence_N, count)
    return WholeResponses(sums_of_sequences(logp_N, term.sequence_N, count), reference_S)


def pair_up(method: PreferenceMethod, plan: HeadPlan, logp: Sequence[Tensor | None]) -> list[WholeResponses]:
    """Slopes of every response of a plan.

    Args:
        method: The method.
        plan: Its `forget` terms are paired with its `preferred` term.
        logp: Per term the log-probability of all its targets; None where they do not count.

    Returns:
        Per term its responses. A preferred answer's slope is the sum over its pairs, their terms'
        coefficients included.
    """
    scores = [
        None if logp_N is None else _scores(method.score, term, logp_N)
        for term, logp_N in zip(plan.terms, logp, strict=True)
    ]
    preferred = next(index for index, term in enumerate(plan.terms) if term.kind == "preferred")
    preferred_S = scores[preferred]
    assert preferred_S is not None
    wholes = [WholeResponses()] * len(plan.terms)
    pull_S = torch.zeros_like(preferred_S)
    for index, (term, score_S) in enumerate(zip(plan.terms, scores, strict=True)):
        if term.kind != "forget":
            continue
        assert score_S is not None and term.partner_S is not None, (
            "every response of the forget set has a preferred answer"
        )
        loss_S, slope_S, preferred_slope_S = method.slopes(score_S, preferred_S[term.partner_S], plan.forget)
        wholes[index] = WholeResponses(slope_S=slope_S, loss_S=loss_S)
        pull_S.index_add_(0, term.partner_S, term.coefficient * preferred_slope_S)
    assert plan.terms[preferred].coefficient == 1.0, "preferred answers count with their pairs"
    wholes[preferred] = WholeResponses(slope_S=pull_S, loss_S=torch.zeros_like(pull_S))
    return wholes


def _scores(score: Score, term: HeadTerm, logp_N: Tensor) -> Tensor:
    """The number of each response that the loss of a pair is a function of, in float64."""
    count = len(term.lengths_S)
    if score == "mean_probability":
        return sums_of_sequences(logp_N.double().exp(), term.sequence_N, count) / term.lengths_S.clamp_min(1)
    assert term.reference_logp_N is not None, "a log-ratio needs the reference's log-probabilities"
    return sums_of_sequences(logp_N.double() - term.reference_logp_N.double(), term.sequence_N, count)
