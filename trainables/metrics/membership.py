"""Membership inference: how much more like training text does the forget set look than a holdout set that no
model ever saw?

Every attack gives one score per item, **low for a member**. They differ in what they call usual:

- LOSS: the mean loss per token, end token included: `ResponseScores.nll_nats` itself (arXiv 1709.01604).
- zlib: that loss per byte of the compressed response, so that repetitive text does not pass for known text
  (arXiv 2012.07805).
- Min-K: the mean loss of the 40 % least likely tokens (arXiv 2310.16789).
- Min-K++: the same, each token's log-probability first standardised over the vocabulary (arXiv 2404.02936).
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
"""OU's floor under Min-K++'s standard deviation (1e-6 under the variance): a row that is certain of its token
has none."""

PRIVLEAK_EPSILON = 1e-10
"""What OU adds to PrivLeak's denominator. Kept: it moves values by 1e-10 of themselves, and a retrained AUC
of 1 gives a finite number."""


def zlib_score(nll_nats: float, response: str) -> float:
    """Loss per byte of the response as zlib compresses it.

    Args:
        nll_nats: Mean loss per token of the response.
        response: Its text, without end token.
    """
    return nll_nats / len(zlib.compress(response.encode()))


def min_k(logp_nats: ArrayLike, share: float = MIN_K_SHARE) -> float:
    """Mean loss in nats of the least likely tokens.

    Args:
        logp_nats: Log-probability of each token, the end token left out; at least one.
        share: Share of the tokens that is looked at, rounded down, at least one token.
    """
    return -_mean_of_lowest(np.asarray(logp_nats, dtype=np.float64), share)


def min_k_plus_plus(
    logp_nats: ArrayLike, mean_nats: ArrayLike, deviation_nats: ArrayLike, share: float = MIN_K_SHARE
) -> float:
    """Min-K over standardised log-probabilities.

    Args:
        logp_nats: Log-probability of each token, the end token left out; at least one.
        mean_nats: Mean of the log-probability of the vocabulary's tokens, each weighed by its probability, at
            the same places.
        deviation_nats: Its standard deviation.
        share: As for `min_k`.

    Returns:
        Standard deviations below the mean, averaged over the lowest tokens; below 0 where even those are
        likelier than usual.
    """
    deviation = np.maximum(np.asarray(deviation_nats, dtype=np.float64), SMALLEST_DEVIATION_NATS)
    return -_mean_of_lowest(
        (np.asarray(logp_nats, dtype=np.float64) - np.asarray(mean_nats, dtype=np.float64)) / deviation, share
    )


def _mean_of_lowest(values: np.ndarray, share: float) -> float:
    assert values.ndim == 1 and values.size, "at least one token"
    return float(np.mean(np.sort(values)[: max(1, int(values.size * share))]))


def reference_score(nll_nats: float, retrained_nll_nats: float) -> float:
    """Loss of the response minus that under the retrained model: how much less surprising it is than to one
    that never saw it.

    The reference is the retrained model, as in OpenUnlearning's published logs, not the original, which did
    see the forget set.

    Args:
        nll_nats: Mean loss per token of the response.
        retrained_nll_nats: The same under the retrained model.
    """
    return nll_nats - retrained_nll_nats


def auc(member_scores: Sequence[float], other_scores: Sequence[float]) -> float:
    """Area under the ROC curve of an attack: how often a random member scores below a random other item.

    Args:
        member_scores: Of the items that may be members, one at least.
        other_scores: Of the holdout items, one at least.

    Returns:
        1 where every member scores below every other item (still a member), .5 where nothing tells them
        apart; ties count half. NaN when any score is NaN.
    """
    members, others = (
        np.asarray(member_scores, dtype=np.float64),
        np.sort(np.asarray(other_scores, dtype=np.float64)),
    )
    if np.isnan(members).any() or np.isnan(others).any():
        return float("nan")
    # Twice the wins plus the ties, in whole numbers: the only rounding is that of the division.
    above_or_tied = others.size - np.searchsorted(others, members, side="left")
    above = others.size - np.searchsorted(others, members, side="right")
    return int((above_or_tied + above).sum()) / (2 * members.size * others.size)


def privleak(auc: float, auc_retrained: float) -> float:
    """PrivLeak in percent: how far the Min-K attack's error is from that on a model that never saw the forget
    set.

    Args:
        auc: Of Min-K on the policy.
        auc_retrained: Of Min-K on the retrained model; OU takes .5 where it has none.

    Returns:
        0 at best; -100 where every forget item still shows, above 0 where forget items show by being *less*
        likely than new text.

    Source: MUSE (arXiv 2407.06460), whose AUC is one minus ours; OU.
    """
    missed, missed_retrained = 1 - auc, 1 - auc_retrained
    return 100 * (missed - missed_retrained) / (missed_retrained + PRIVLEAK_EPSILON)
