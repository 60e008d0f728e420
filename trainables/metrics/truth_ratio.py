"""Truth ratio of wrong and right answers, and forget quality, its comparison with the retrained model."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import ks_2samp

OU_EPSILON = 1e-10
"""OpenUnlearning's addition to denominators. It moves published aggregates by up to 1e-6; ours need none."""

LARGEST_LOG_RATIO_NATS = 700.0
"""Largest exponent of a ratio: exp overflows beyond it, and a collapsed model must give a finite ratio."""


def truth_ratio(correct_nll_nats: ArrayLike, wrong_nll_nats: ArrayLike, *, epsilon: float = 0.0) -> float:
    """Compute the truth ratio R = p_wrong / p_correct of one item.

    Both are geometric means over wordings of the length-normalised probability.

    Args:
        correct_nll_nats: Mean loss per token of each right wording: the paraphrases, or the answer itself for
            data without paraphrases.
        wrong_nll_nats: Mean loss per token of each wrong answer.
        epsilon: Added to p_correct; `OU_EPSILON` reproduces published values.

    Returns:
        R: 1 where right and wrong are equally likely, near 0 for a model that knows the answer.

    Source: TOFU (arXiv 2401.06121); method.md section 4. Deviation: no epsilon by default, which matters once
    p_correct nears 1e-10.
    """
    correct, wrong = (
        np.mean(np.asarray(correct_nll_nats, dtype=np.float64)),
        np.mean(np.asarray(wrong_nll_nats, dtype=np.float64)),
    )
    if epsilon:
        return float(np.exp(-wrong) / (np.exp(-correct) + epsilon))
    # The exponential of a difference is finite where both probabilities underflow. np.minimum, unlike min,
    # lets NaN through: a diverged model must be visible.
    return float(np.exp(np.minimum(correct - wrong, LARGEST_LOG_RATIO_NATS)))


def forget_truth_ratio(ratios: Sequence[float], *, epsilon: float = 0.0) -> float:
    """mean(min(R, 1/R)): 1 where right and wrong answers are equally likely, as for the retrained model."""
    values = np.asarray(ratios, dtype=np.float64)
    # R underflows to 0 where the wrong answers are hopeless: then 1/R is infinite, and R is the minimum.
    with np.errstate(divide="ignore"):
        return float(np.mean(np.minimum(values, 1 / (values + epsilon))))


def other_truth_ratio(ratios: Sequence[float]) -> float:
    """mean(max(0, 1 - R)): 1 where the model knows the right answer; for all sets but the forget set."""
    return float(np.mean(np.maximum(0.0, 1 - np.asarray(ratios, dtype=np.float64))))


def paper_truth_ratio(ratios: Sequence[float]) -> float:
    """mean(p_c / (p_c + p_w)) = mean(1 / (1 + R)): the form in the paper's Mem, high for remembered facts."""
    return float(np.mean(1 / (1 + np.asarray(ratios, dtype=np.float64))))


def normalised_probability(
    correct_nll_nats: float, wrong_nll_nats: Sequence[float], *, epsilon: float = 0.0
) -> float:
    """Probability of the right answer normalised over the options, from length-normalised probabilities.

    Args:
        correct_nll_nats: Mean loss per token of the right answer.
        wrong_nll_nats: Mean loss per token of each wrong answer.
        epsilon: Added to the denominator; `OU_EPSILON` reproduces published values.

    Returns:
        p_c / (p_c + sum p_w).
    """
    # From differences of losses, so that tiny probabilities do not underflow.
    differences = correct_nll_nats - np.asarray(wrong_nll_nats, dtype=np.float64)
    # Capped, so that a hopeless right answer gives a tiny probability and not an overflow.
    ratio = np.exp(np.minimum(differences, LARGEST_LOG_RATIO_NATS)).sum()
    if epsilon:
        ratio = ratio + epsilon / np.exp(-correct_nll_nats)
    return float(1 / (1 + ratio))


SMALLEST_P = 5e-324
"""The smallest positive float, so that log10 of a p-value that underflows stays finite."""


def forget_quality(ratios: Sequence[float], retrained_ratios: Sequence[float]) -> float:
    """p-value of the two-sample Kolmogorov-Smirnov test on per-item truth ratios.

    Args:
        ratios: Truth ratio R of each forget item under the policy.
        retrained_ratios: Truth ratio R of each forget item under the retrained model.

    Returns:
        The exact p-value; near 1 when the two samples cannot be distinguished. (The asymptotic p-value is off
        by up to 58 %.)

    Source: TOFU (arXiv 2401.06121). OU tests 1/R; the statistic depends on the order of the values alone, so
    R gives the same.
    """
    # scipy would sort NaN to one end and return a p-value as if it were a number.
    if any(math.isnan(value) for value in (*ratios, *retrained_ratios)):
        return math.nan
    return float(ks_2samp(ratios, retrained_ratios, method="exact").pvalue)


def log10_p(p_value: float) -> float:
    """Return log10 of a p-value: published forget quality goes down to 1e-240."""
    return math.nan if math.isnan(p_value) else math.log10(max(p_value, SMALLEST_P))
