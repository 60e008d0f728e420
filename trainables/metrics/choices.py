"""Multiple choice by likelihood: which of the answers does the model hold to be the likeliest to follow the
question?"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax

from trainables.data.encoding import encode_plain, plain_ids
from trainables.data.examples import ChoiceQuestion
from trainables.metrics.scoring import Ids, Scorer, dealt_batches


def score_choices(scorer: Scorer, questions: Sequence[ChoiceQuestion]) -> list[dict[str, Any]]:
    """Score this rank's share of the questions.

    Returns:
        Per question `id` and the fields of `score_choice`. Ranks: all; each gets its own share.
    """
    longest_first = sorted(questions, key=lambda question: (-len(question.prompt), question.id))
    most_choices = max((len(question.choices) for question in questions), default=1)
    items: list[dict[str, Any]] = []
    # A batch holds every answer to each of its questions.
    for chunk in dealt_batches(longest_first, scorer, max(1, scorer.batch // most_choices)):
        prompts = [plain_ids(scorer.tokenizer, question.prompt) for question in chunk]
        scores = scorer.score_continuations(prompts, [_continuations(scorer, question) for question in chunk])
        items += [
            {"id": question.id, **score_choice(logp, question.right)}
            for question, logp in zip(chunk, scores, strict=True)
        ]
    return items


def _continuations(scorer: Scorer, question: ChoiceQuestion) -> list[Ids]:
    encoded = [encode_plain(scorer.tokenizer, question.prompt, choice) for choice in question.choices]
    return [ids[length:] for ids, length in encoded]


def score_choice(logp_nats: ArrayLike, right: int) -> dict[str, float]:
    """Whether the right answer is the likeliest, and how likely it is among the answers.

    Args:
        logp_nats: Summed log-probability of each answer.
        right: Place of the right one.

    Returns:
        `accuracy`: 1 or 0; where several are likeliest, the share of one of them if the right one is among
            them, so that a model that
        cannot tell answers apart is at chance wherever the right ones stand. `probability`: of the right one
            among the answers.
        NaN where the model has diverged.

    Source: WMDP (arXiv 2403.03218), evaluated as in the LM Evaluation Harness (`acc`). Deviation: that gives
    ties to the first.
    """
    logp = np.asarray(logp_nats, dtype=np.float64)
    if np.isnan(logp).any():
        return {"accuracy": float("nan"), "probability": float("nan")}
    best = logp == logp.max()
    return {"accuracy": float(best[right] / best.sum()), "probability": float(softmax(logp)[right])}
