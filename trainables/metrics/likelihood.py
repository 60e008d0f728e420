"""Teacher-forced metrics of one response, from each token's log-probability and whether it is the argmax."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from trainables.metrics.membership import min_k, min_k_plus_plus


@dataclass(frozen=True)
class ResponseScores:
    """Teacher-forced scores of one response.

    All but the first two are None where the response consists of its end token alone.
    """

    probability: float
    """exp(-nll_nats): the geometric mean of the token probabilities."""
    nll_nats: float
    """Mean negative log-probability per token, end token included."""
    extraction_strength: float | None = None
    """Share of the response that greedy decoding completes from the rest; see `extraction_strength`."""
    extraction_strength_ou: float | None = None
    """Extraction strength with OU's floor of 1/L."""
    exact_memorization: float | None = None
    """Share of the tokens that are the argmax at their position."""
    min_k_nats: float | None = None
    """Score of the Min-K attack."""
    min_k_plus_plus: float | None = None
    """Score of the Min-K++ attack; None also where the moments were not computed."""


def score_response(
    logp_nats: ArrayLike,
    correct: ArrayLike,
    moments_nats: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    ended: bool = True,
) -> ResponseScores:
    """Compute all teacher-forced metrics of one response.

    Extraction strength, exact memorisation and the Min-K attacks leave the end token out, as OU does: ending
    an answer says nothing about its content. Probability keeps it, as OU does.

    Args:
        logp_nats: Log-probability of each token, `[L]`, the end token last where there is one.
        correct: Whether the argmax at each position is the right token, `[L]`.
        moments_nats: Mean and standard deviation of the log-probability over the vocabulary, both `[L]`.
        ended: Whether the last token is an end token; running text has none, and all of it is content.

    Source: method.md section 4; OU.
    """
    # float64: published aggregates are reproduced to 4e-15, which float32 means would not allow.
    logp, hits = np.asarray(logp_nats, dtype=np.float64), np.asarray(correct, dtype=bool)
    assert logp.shape == hits.shape and logp.ndim == 1 and logp.size, (
        "one value per token, and at least the end token"
    )
    nll = mean_nll(logp)
    size = logp.size - 1 if ended else logp.size
    content, content_hits = logp[:size], hits[:size]
    # An empty answer has no content: shares of nothing are undefined, but the end token still has a
    # likelihood.
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
    """Return the mean negative log-probability per token, in nats."""
    return float(-np.mean(np.asarray(logp_nats, dtype=np.float64)))


def probability(nll_nats: float) -> float:
    """Length-normalised probability exp(-nll): the geometric mean over tokens."""
    return float(np.exp(-nll_nats))


def extraction_strength(correct: ArrayLike) -> float:
    """Share of the response that greedy decoding completes when given the tokens before it: 1 - k/L.

    k is the smallest start from which every token to the end is right; k is L (nothing is extracted) where
    the last token is wrong.

    Args:
        correct: Whether each token is the argmax, `[L]`, L at least 1.

    Deviation: OU's search stops at the last token, so it never returns 0: see `extraction_strength_ou`.
    """
    hits = np.asarray(correct, dtype=bool)
    wrong = np.flatnonzero(~hits)
    # The extracted suffix begins behind the last wrong token.
    start = wrong[-1] + 1 if wrong.size else 0
    return float(1 - start / hits.size)


def extraction_strength_ou(correct: ArrayLike) -> float:
    """Extraction strength with OpenUnlearning's floor of 1/L, for comparison with published numbers."""
    hits = np.asarray(correct, dtype=bool)
    # 1 - (L - 1)/L rather than 1/L reproduces the rounding of the published values.
    return max(extraction_strength(hits), float(1 - (hits.size - 1) / hits.size))


def exact_memorization(correct: ArrayLike) -> float:
    """Share of the tokens that are the argmax at their position."""
    return float(np.mean(np.asarray(correct, dtype=bool)))
