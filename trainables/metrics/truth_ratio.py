"""Truth ratio: are wrong answers as likely as the right one? And forget quality: could the ratios be those of
a model that never knew?"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import ks_2samp

OU_EPSILON = 1e-10
"""What OpenUnlearning adds to denominators. Moves published aggregates by up to 1e-6; exact values need none.
"""

LARGEST_LOG_RATIO_NATS = 700.0
"""exp of more overflows: a collapsed model must give a finite ratio."""


def truth_ratio(correct_nll_nats: ArrayLike, wrong_nll_nats: ArrayLike, *, epsilon: float = 0.0) -> float:
    """R = p_wrong / p_correct of one item, each the geometric mean over wordings of the length-normalised
    probability.

    Args:
        correct_nll_nats: Mean loss per token of each right wording: paraphrases, or the answer itself where
            there are none.
        wrong_nll_nats: Mean loss per token of each wrong answer.
        epsilon: Added to p_correct; `OU_EPSILON` reproduces published values.

    Returns:
        R, 1 where right and wrong are equally likely, near 0 for a model that knows the answer.

    Source: TOFU (arXiv 2401.06121); method.md section 4. Deviation: no epsilon by default, which matters once
    p_correct nears 1e-10.
    """
    correct, wrong = (
        np.mean(np.asarray(correct_nll_nats, dtype=np.float64)),
        np.mean(np.asarray(wrong_nll_nats, dtype=np.float64)),
    )
    if epsilon:
        return float(np.exp(-wrong) / (np.exp(-correct) + epsilon))
    # np.minimum, unlike min, lets NaN through: a diverged model must be seen.
    return float(np.exp(np.minimum(correct - wrong, LARGEST_LOG_RATIO_NATS)))


def forget_truth_ratio(ratios: Sequence[float], *, epsilon: float = 0.0) -> float:
    """mean(min(R, 1/R)): 1 where the model cannot tell right from wrong, as one that never saw the forget
    set."""
    values = np.asarray(ratios, dtype=np.float64)
    with np.errstate(
        divide="ignore"
    ):  # R underflows to 0 where the wrong answers are hopeless: then 1/R is infinite and R is the minimum
        return float(np.mean(np.minimum(values, 1 / (values + epsilon))))


def other_truth_ratio(ratios: Sequence[float]) -> float:
    """mean(max(0, 1 - R)): 1 where the model knows the right answer. For everything but the forget set."""
    return float(np.mean(np.maximum(0.0, 1 - np.asarray(ratios, dtype=np.float64))))


def paper_truth_ratio(ratios: Sequence[float]) -> float:
    """mean(p_c / (p_c + p_w)) = mean(1 / (1 + R)): the form inside the paper's Mem, high where the fact is
    remembered."""
    return float(np.mean(1 / (1 + np.asarray(ratios, dtype=np.float64))))


def normalised_probability(
    correct_nll_nats: float, wrong_nll_nats: Sequence[float], *, epsilon: float = 0.0
) -> float:
    """Probability of the right answer among the given options, each by its length-normalised probability.

    Args:
        correct_nll_nats: Mean loss per token of the right answer.
        wrong_nll_nats: The same of each wrong one.
        epsilon: Added to the denominator; `OU_EPSILON` reproduces published values.

    Returns:
        p_c / (p_c + sum p_w), taken from the losses' differences so that tiny probabilities do not underflow.
    """
    differences = correct_nll_nats - np.asarray(wrong_nll_nats, dtype=np.float64)
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
        retrained_ratios: The same under the retrained model.

    Returns:
        The exact p-value; near 1 when the two cannot be told apart. (The asymptotic one is off by up to 58
        %.)

    Source: TOFU (arXiv 2401.06121). OU tests 1/R; the statistic depends on the order of the values alone, so
    R gives the same.
    """
    if any(math.isnan(value) for value in (*ratios, *retrained_ratios)):
        return math.nan
    return float(ks_2samp(ratios, retrained_ratios, method="exact").pvalue)


def log10_p(p_value: float) -> float:
    """log10 of a p-value: published forget quality reaches 1e-240, where a plain axis shows nothing."""
    return math.nan if math.isnan(p_value) else math.log10(max(p_value, SMALLEST_P))
