"""Statistics of whole responses that row weights depend on: sums, and pairs with preferred answers.

Shape suffixes: N rows (answer tokens), S sequences (responses).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from search_spaces.catalogue.method_catalogue import Score
from trainables.losses.head_plan import HeadPlan, HeadTerm
from trainables.losses.methods import PreferenceMethod
from trainables.losses.residuals import TargetStats, Weighted, sums_of_sequences


@dataclass(frozen=True)
class WholeResponses:
    """Per-response statistics of one term; None where the method does not need them."""

    logp_S: Tensor | None = None
    """Summed log-probability of each response in nats."""
    reference_logp_S: Tensor | None = None
    """Summed log-probability of each response under the reference in nats."""
    slope_S: Tensor | None = None
    """Derivative of the loss with respect to the response's score, for preference methods."""
    loss_S: Tensor | None = None
    """Loss of the pair that the response belongs to, for preference methods."""

    def weigh(self, stats: TargetStats, score: Score) -> Weighted:
        """Return weight and loss of some rows of a preference method, both `[N]`.

        By the chain rule the weight is the slope of the loss times the derivative of the score with respect
        to the row's log-probability: 1 for a log-ratio, `p / length` for a mean probability.
        """
        assert self.slope_S is not None and self.loss_S is not None
        dtype, lengths_N = stats.logp_N.dtype, stats.lengths_N
        slope_N = self.slope_S[stats.sequence_N].to(dtype)
        weight_N = slope_N if score == "log_ratio" else slope_N * stats.logp_N.exp() / lengths_N
        return weight_N, self.loss_S[stats.sequence_N].to(dtype) / lengths_N


def sums_of(term: HeadTerm, logp_N: Tensor) -> WholeResponses:
    """Sum the log-probabilities of all targets of a term over each response."""
    count, reference_N = len(term.lengths_S), term.reference_logp_N
    reference_S = None if reference_N is None else sums_of_sequences(reference_N, term.sequence_N, count)
    return WholeResponses(sums_of_sequences(logp_N, term.sequence_N, count), reference_S)


def pair_up(method: PreferenceMethod, plan: HeadPlan, logp: Sequence[Tensor | None]) -> list[WholeResponses]:
    """Compute loss and slopes of every pair of a plan.

    Args:
        method: The preference method.
        plan: The plan, whose `forget` terms are paired with its `preferred` term.
        logp: For each term the log-probability of all its targets; None for terms outside of the pairs.

    Returns:
        For each term the statistics of its responses. A preferred answer's slope is the sum over its pairs,
        with the coefficients of their terms included.
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
        # A preferred answer may belong to pairs of several terms (the response and its sampled beliefs):
        # their slopes add up.
        pull_S.index_add_(0, term.partner_S, term.coefficient * preferred_slope_S)
    # The slopes already contain the coefficients of the forget terms: another factor would count twice. The
    # pair's loss is reported at its forget response alone.
    assert plan.terms[preferred].coefficient == 1.0, "preferred answers count with their pairs"
    wholes[preferred] = WholeResponses(slope_S=pull_S, loss_S=torch.zeros_like(pull_S))
    return wholes


def _scores(score: Score, term: HeadTerm, logp_N: Tensor) -> Tensor:
    """Compute the score of each response that the loss of its pair is a function of, `[S]` in float64."""
    count = len(term.lengths_S)
    if score == "mean_probability":
        return sums_of_sequences(logp_N.double().exp(), term.sequence_N, count) / term.lengths_S.clamp_min(1)
    assert term.reference_logp_N is not None, "a log-ratio needs the reference's log-probabilities"
    return sums_of_sequences(logp_N.double() - term.reference_logp_N.double(), term.sequence_N, count)
