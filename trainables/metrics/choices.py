"""Multiple choice by likelihood: the model chooses the answer with the highest log-probability."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax

from trainables.data.encoding import encode_plain, plain_ids
from trainables.data.examples import ChoiceQuestion
from trainables.metrics.scoring import Ids, Scorer, batches_of_rank


def score_choices(scorer: Scorer, questions: Sequence[ChoiceQuestion]) -> list[dict[str, Any]]:
    """Score this rank's share of the questions.

    Returns:
        For each question `id` and the fields of `score_choice`. Ranks: all; each gets its own share.
    """
    # Longest first: batches hold prompts of similar length, and a batch that does not fit into memory fails
    # at once rather than at the end.
    longest_first = sorted(questions, key=lambda question: (-len(question.prompt), question.id))
    most_choices = max((len(question.choices) for question in questions), default=1)
    items: list[dict[str, Any]] = []
    # A question brings one sequence for each choice, and the batch size counts sequences.
    for chunk in batches_of_rank(longest_first, scorer, max(1, scorer.batch // most_choices)):
        prompts = [plain_ids(scorer.tokenizer, question.prompt) for question in chunk]
        scores = scorer.score_continuations(prompts, [_continuations(scorer, question) for question in chunk])
        items += [
            {"id": question.id, **score_choice(logp, question.right)}
            for question, logp in zip(chunk, scores, strict=True)
        ]
    return items


def _continuations(scorer: Scorer, question: ChoiceQuestion) -> list[Ids]:
    # Encoded behind the prompt and cut: the space in ` A` belongs to the choice's token in most vocabularies.
    encoded = [encode_plain(scorer.tokenizer, question.prompt, choice) for choice in question.choices]
    return [ids[length:] for ids, length in encoded]


def score_choice(logp_nats: ArrayLike, right: int) -> dict[str, float]:
    """Score one question: whether the right answer has the highest likelihood, and its share of probability.

    Args:
        logp_nats: Summed log-probability of each answer.
        right: Index of the right answer.

    Returns:
        - `accuracy`: 1 or 0. If n answers share the highest likelihood and the right one is among them, 1/n:
          a model that cannot separate the answers scores chance, whatever the index of the right one.
        - `probability`: probability of the right answer, normalised over the answers.

        Both are NaN where the model has diverged.

    Source: WMDP (arXiv 2403.03218), evaluated as in the LM Evaluation Harness (`acc`). Deviation: the harness
    gives ties to the first answer.
    """
    logp = np.asarray(logp_nats, dtype=np.float64)
    # NaN compares unequal to every maximum, which would read as accuracy 0: a diverged model must be visible.
    if np.isnan(logp).any():
        return {"accuracy": float("nan"), "probability": float("nan")}
    best = logp == logp.max()
    return {"accuracy": float(best[right] / best.sum()), "probability": float(softmax(logp)[right])}
