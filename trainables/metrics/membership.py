"""Membership inference attacks: do forget items look more like training text than unseen holdout items?

Every attack gives one score per item, **low for a member**. The attacks differ in what they compare the loss
with:

- LOSS: the mean loss per token, end token included: `ResponseScores.nll_nats` itself (arXiv 1709.01604).
- zlib: the same loss per byte of the compressed response, so that repetitive text does not pass for training
  text (arXiv 2012.07805).
- Min-K: the mean loss of the 40 % least likely tokens (arXiv 2310.16789).
- Min-K++: Min-K with each token's log-probability standardised over the vocabulary (arXiv 2404.02936).
- Reference: the loss minus that of the retrained model, which never saw the item (arXiv 2012.07805).
- GradNorm: see `gradient_norm`.

Min-K, Min-K++ and GradNorm leave the end token out, LOSS, zlib and Reference keep it, as OpenUnlearning does.

Source: method.md section 4; OU.
"""

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

MIN_K_SHARE = 0.4
"""Share of the tokens that Min-K and Min-K++ look at, as in OpenUnlearning's evaluations."""

SMALLEST_DEVIATION_NATS = 1e-3
"""OU's floor of Min-K++'s standard deviation (1e-6 of the variance): a one-hot row has deviation 0."""

PRIVLEAK_EPSILON = 1e-10
"""OU's addition to PrivLeak's denominator.

It changes values by a relative 1e-10, and keeps the result finite for a retrained AUC of 1.
"""


def zlib_score(nll_nats: float, response: str) -> float:
    """Return the loss per byte of the zlib-compressed response.

    Args:
        nll_nats: Mean loss per token of the response.
        response: Text of the response, without end token.
    """
    return nll_nats / len(zlib.compress(response.encode()))


def min_k(logp_nats: ArrayLike, share: float = MIN_K_SHARE) -> float:
    """Return the mean loss in nats of the least likely tokens (Min-K).

    Args:
        logp_nats: Log-probability of each token, `[L]`, the end token left out; at least one.
        share: Share of the tokens that counts, rounded down, at least one token.
    """
    return -_mean_of_lowest(np.asarray(logp_nats, dtype=np.float64), share)


def min_k_plus_plus(
    logp_nats: ArrayLike, mean_nats: ArrayLike, deviation_nats: ArrayLike, share: float = MIN_K_SHARE
) -> float:
    """Return Min-K over standardised log-probabilities (Min-K++).

    Args:
        logp_nats: Log-probability of each token, `[L]`, the end token left out; at least one.
        mean_nats: Mean log-probability of a token drawn from the model at each position, `[L]`.
        deviation_nats: Standard deviation of that log-probability, `[L]`.
        share: Share of the tokens that counts, as for `min_k`.

    Returns:
        Standard deviations below the mean, averaged over the lowest tokens; below 0 where even those are
        likelier than the mean.
    """
    deviation = np.maximum(np.asarray(deviation_nats, dtype=np.float64), SMALLEST_DEVIATION_NATS)
    return -_mean_of_lowest(
        (np.asarray(logp_nats, dtype=np.float64) - np.asarray(mean_nats, dtype=np.float64)) / deviation, share
    )


def _mean_of_lowest(values: np.ndarray, share: float) -> float:
    assert values.ndim == 1 and values.size, "at least one token"
    # Rounded down, as in OU, but at least one: a short answer has a score too.
    return float(np.mean(np.sort(values)[: max(1, int(values.size * share))]))


def reference_score(nll_nats: float, retrained_nll_nats: float) -> float:
    """Return the loss of the response minus its loss under the retrained model, which never saw it.

    The reference is the retrained model, as in OpenUnlearning's published logs, not the original model, which
    did see the forget set.

    Args:
        nll_nats: Mean loss per token of the response.
        retrained_nll_nats: Mean loss per token of the response under the retrained model.
    """
    return nll_nats - retrained_nll_nats


def auc(member_scores: Sequence[float], other_scores: Sequence[float]) -> float:
    """Area under the ROC curve of an attack: the probability that a member scores below another item.

    Args:
        member_scores: Scores of the possible members, at least one.
        other_scores: Scores of the holdout items, at least one.

    Returns:
        1 where every member scores below every other item (still a member), .5 where the two cannot be
        separated; ties count half. NaN when any score is NaN.
    """
    members, others = (
        np.asarray(member_scores, dtype=np.float64),
        np.sort(np.asarray(other_scores, dtype=np.float64)),
    )
    if np.isnan(members).any() or np.isnan(others).any():
        return float("nan")
    # Twice the wins plus the ties, in whole numbers, so that the only rounding is that of the division.
    # Sorting makes it n log n, where comparing all pairs would be n^2.
    above_or_tied = others.size - np.searchsorted(others, members, side="left")
    above = others.size - np.searchsorted(others, members, side="right")
    return int((above_or_tied + above).sum()) / (2 * members.size * others.size)


def privleak(auc: float, auc_retrained: float) -> float:
    """PrivLeak in percent: the Min-K attack's error relative to its error on the retrained model.

    Args:
        auc: AUC of Min-K on the policy.
        auc_retrained: AUC of Min-K on the retrained model; OU takes .5 where it has none.

    Returns:
        0 at best; -100 where the attack finds every forget item, above 0 where forget items stand out by
        being *less* likely than new text.

    Source: MUSE (arXiv 2407.06460), whose AUC is one minus ours; OU.
    """
    # MUSE defines PrivLeak by an AUC that is high for non-members; one minus ours is that AUC.
    missed, missed_retrained = 1 - auc, 1 - auc_retrained
    return 100 * (missed - missed_retrained) / (missed_retrained + PRIVLEAK_EPSILON)
