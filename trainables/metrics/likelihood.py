"""Teacher-forced metrics of one response, from the log-probability of each of its tokens and whether greedy
decoding would hit it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from trainables.metrics.membership import min_k, min_k_plus_plus


@dataclass(frozen=True)
class ResponseScores:
    """What one teacher-forced response says. All but the first two are None where the response is its end
    token alone."""

    probability: float
    """exp(-nll_nats): the geometric mean of the token probabilities."""
    nll_nats: float
    """Mean negative log-probability per token, end token included."""
    extraction_strength: float | None = None
    extraction_strength_ou: float | None = None
    exact_memorization: float | None = None
    min_k_nats: float | None = None
    """Score of the Min-K attack."""
    min_k_plus_plus: float | None = None
    """Score of the Min-K++ attack; None also where the moments that it takes were not asked for."""


def score_response(
    logp_nats: ArrayLike,
    correct: ArrayLike,
    moments_nats: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    ended: bool = True,
) -> ResponseScores:
    """All teacher-forced metrics of one response.

    Extraction strength, exact memorisation and the Min-K attacks leave the end token out, as OU does: a model
    that ends every answer knows nothing of its content. Probability keeps it, as OU does.

    Args:
        logp_nats: Log-probability of each token, the end token last where there is one.
        correct: Whether the most likely token is the right one, for the same tokens.
        moments_nats: Mean and standard deviation of the log-probability over the vocabulary, for the same
            tokens.
        ended: Whether there is an end token; running text has none, and all of it is content.

    Source: method.md section 4; OU.
    """
    logp, hits = np.asarray(logp_nats, dtype=np.float64), np.asarray(correct, dtype=bool)
    assert logp.shape == hits.shape and logp.ndim == 1 and logp.size, (
        "one value per token, and at least the end token"
    )
    nll = mean_nll(logp)
    size = logp.size - 1 if ended else logp.size
    content, content_hits = logp[:size], hits[:size]
    if not content.size:
        return ResponseScores(probability(nll), nll)
    plus_plus = None
    if moments_nats is not None:
        mean, deviation = (np.asarray(moment, dtype=np.float64)[:size] for moment in moments_nats)
        plus_plus = min_k_plus_plus(content, mean, deviation)
    return ResponseScores(
        probability=probability(nll),
        nll_nats=nll,
        extraction_strength=extraction_strength(content_hits),
        extraction_strength_ou=extraction_strength_ou(content_hits),
        exact_memorization=exact_memorization(content_hits),
        min_k_nats=min_k(content),
        min_k_plus_plus=plus_plus,
    )


def mean_nll(logp_nats: ArrayLike) -> float:
    """Mean negative log-probability per token, in nats."""
    return float(-np.mean(np.asarray(logp_nats, dtype=np.float64)))


def probability(nll_nats: float) -> float:
    """Length-normalised probability exp(-nll): the geometric mean over tokens."""
    return float(np.exp(-nll_nats))


def extraction_strength(correct: ArrayLike) -> float:
    """Share of the response that greedy decoding completes once the rest before it is given: 1 - k/L.

    k is the smallest start from which every token to the end is right; L (nothing is extracted) where the
    last one is wrong.

    Args:
        correct: Whether each token is the most likely one, `[L]`, L at least 1.

    Deviation: OU's search stops at the last token, so it never returns 0: see `extraction_strength_ou`.
    """
    hits = np.asarray(correct, dtype=bool)
    wrong = np.flatnonzero(~hits)
    start = wrong[-1] + 1 if wrong.size else 0
    return float(1 - start / hits.size)


def extraction_strength_ou(correct: ArrayLike) -> float:
    """Extraction strength as published by OpenUnlearning: at least 1/L. For comparison with published numbers
    only."""
    hits = np.asarray(correct, dtype=bool)
    # 1 - (L - 1)/L rather than 1/L: the same rounding as the published values.
    return max(extraction_strength(hits), float(1 - (hits.size - 1) / hits.size))


def exact_memorization(correct: ArrayLike) -> float:
    """Share of the tokens that are the most likely one in their place."""
    return float(np.mean(np.asarray(correct, dtype=bool)))
