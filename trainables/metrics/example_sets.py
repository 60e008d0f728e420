"""Items of sets of examples: one teacher-forced pass over all their responses, one generation pass over all
their prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from trainables.data.encoding import Encoded, encode_example, encode_question
from trainables.data.examples import Example
from trainables.metrics.aggregates import ATTACKED
from trainables.metrics.likelihood import ResponseScores
from trainables.metrics.membership import zlib_score
from trainables.metrics.rouge import rouge_l_f1, rouge_l_recall
from trainables.metrics.scoring import Scorer, generate_answers, score_responses
from trainables.metrics.truth_ratio import normalised_probability, truth_ratio

OPTION_SETS = ("real_authors", "world_facts")
"""Sets whose probability is normalised over the right and the wrong answers."""

NOT_ANSWERED = ("holdout",)
"""Sets that are scored but not answered: nobody was taught their answers, and generation is most of an
evaluation's time."""


@dataclass(frozen=True)
class AnswerFormat:
    """How the examples of a set are answered, and what the answers are judged by."""

    max_new_tokens: int | None = None
    """Longest answer, where it is shorter than elsewhere."""
    stops: tuple[str, ...] = ()
    """What an answer is cut at: base models go on with a question of their own."""
    cuts_reference: bool = False
    """Whether the true text is cut to as many tokens as the answer may have: it is longer than any answer."""
    f1: bool = False
    """Judge by ROUGE-L's F1 beside its recall."""


MAX_NEW_TOKENS = 200
"""Longest answer, as in the published evaluations: recall counts whatever the model says within it."""
USUAL_FORMAT = AnswerFormat()
KNOWMEM_FORMAT = AnswerFormat(max_new_tokens=32, stops=("\n\n", "\nQuestion", "Question:"), f1=True)
ANSWER_FORMATS = {
    "verbmem": AnswerFormat(max_new_tokens=128, cuts_reference=True, f1=True),
    "forget_knowmem": KNOWMEM_FORMAT,
    "retain_knowmem": KNOWMEM_FORMAT,
}
"""Sets that are asked in a way of their own: MUSE's, as in its published evaluation."""


def score_sets(
    scorer: Scorer, sets: Mapping[str, Sequence[Example]], max_new_tokens: int
) -> dict[str, list[dict[str, Any]]]:
    """Score every example of every set, and answer those that are asked; nobody is with 0 new tokens.

    Returns:
        Per set its items: `id`, the fields of `score_item`; of `attack_item` on forget and holdout items
            where there are both;
        those of `rouge_fields` where it is asked. Equal on every rank. Ranks: all.
    """
    examples = [(name, example) for name, members in sets.items() for example in members]
    attacked = ATTACKED if all(sets.get(name) for name in ATTACKED) else ()
    responses = _score_all_responses(scorer, examples, attacked)
    answers = _score_answers(scorer, examples, max_new_tokens) if max_new_tokens else {}
    items: dict[str, list[dict[str, Any]]] = {name: [] for name, members in sets.items() if members}
    for index, ((name, example), scores) in enumerate(zip(examples, responses, strict=True)):
        border = 1 + len(example.paraphrases)
        item = {
            "id": example.id,
            **score_item(scores[0], scores[1:border], scores[border:], options=name in OPTION_SETS),
        }
        if name in attacked:
            item |= attack_item(scores[0], example.response)
        items[name].append(item | answers.get(index, {}))
    return {name: sorted(members, key=lambda item: item["id"]) for name, members in items.items()}


def _score_all_responses(
    scorer: Scorer, examples: Sequence[tuple[str, Example]], attacked: Sequence[str]
) -> list[list[ResponseScores]]:
    """Scores of each example's response, paraphrases and wrong answers, in this order."""
    encoded: list[Encoded] = []
    starts, with_moments = [0], set()
    for name, example in examples:
        if name in attacked:
            with_moments.add(len(encoded))
        for response in (example.response, *example.paraphrases, *example.perturbed):
            encoded.append(encode_example(scorer.tokenizer, example, response))
        starts.append(len(encoded))
    scores: dict[int, ResponseScores] = {}
    # One pass over every response; those that are attacked go in batches of their own, since only they pay
    # for the moments.
    for moments in (False, True):
        chosen = [index for index in range(len(encoded)) if (index in with_moments) is moments]
        mine = score_responses(scorer, [encoded[index] for index in chosen], moments=moments)
        scores |= {chosen[place]: value for place, value in scorer.gather(list(mine.items()))}
    return [[scores[index] for index in range(start, end)] for start, end in pairwise(starts)]


def _score_answers(
    scorer: Scorer, examples: Sequence[tuple[str, Example]], max_new_tokens: int
) -> dict[int, dict[str, Any]]:
    """Fields of the greedy answer to each example that is asked, by its place."""
    ways: dict[AnswerFormat, list[int]] = {}  # in the order of the sets, which is the same on every rank
    for index, (name, example) in enumerate(examples):
        if name not in NOT_ANSWERED and is_question(example):
            ways.setdefault(ANSWER_FORMATS.get(name, USUAL_FORMAT), []).append(index)
    judged: list[tuple[int, dict[str, Any]]] = []
    for asking, asked in ways.items():
        prompts = [encode_question(scorer.tokenizer, examples[index][1]) for index in asked]
        longest = min(max_new_tokens, asking.max_new_tokens or max_new_tokens)
        # ROUGE is slow enough to be left to the rank that generated the answer.
        for place, answer in generate_answers(scorer, prompts, longest, asking.stops).items():
            index = asked[place]
            reference = reference_of(scorer.tokenizer, examples[index][1], asking, longest)
            judged.append((index, rouge_fields(answer, reference, f1=asking.f1)))
    return dict(scorer.gather(judged))


def is_question(example: Example) -> bool:
    """Whether anybody is asked anything: running text alone asks nothing."""
    return bool(example.prompt) or not example.plain


def reference_of(
    tokenizer: PreTrainedTokenizerBase, example: Example, asking: AnswerFormat, longest: int
) -> str:
    """What an answer of at most so many tokens is judged by."""
    if not asking.cuts_reference:
        return example.response
    start = tokenizer.decode(tokenizer(example.response, add_special_tokens=False)["input_ids"][:longest])
    assert isinstance(start, str)
    return start


def rouge_fields(answer: str, reference: str, *, f1: bool) -> dict[str, Any]:
    """Fields of one generated answer.

    Args:
        answer: What the model said.
        reference: What is true.
        f1: Also give `rouge_l_f1`.
    """
    fields = {"generated": answer, "rouge_l": rouge_l_recall(reference, answer)}
    return fields | {"rouge_l_f1": rouge_l_f1(reference, answer)} if f1 else fields


def score_item(
    response: ResponseScores,
    paraphrases: Sequence[ResponseScores],
    wrong: Sequence[ResponseScores],
    *,
    options: bool,
) -> dict[str, float | None]:
    """One example's metrics from the scores of its response, its other wordings and its wrong answers.

    Args:
        response: The true response.
        paraphrases: Other wordings of it.
        wrong: Wrong answers.
        options: Normalise the probability over right and wrong answers (real authors, world facts).

    Returns:
        Values by field; None where the data does not allow one.
    """
    wrong_nll = [scores.nll_nats for scores in wrong]
    right_nll = [scores.nll_nats for scores in (paraphrases or [response])]
    return {
        "probability": normalised_probability(response.nll_nats, wrong_nll)
        if options and wrong
        else response.probability,
        "nll_nats": response.nll_nats,
        "extraction_strength": response.extraction_strength,
        "extraction_strength_ou": response.extraction_strength_ou,
        "exact_memorization": response.exact_memorization,
        "paraphrase_probability": float(np.mean([scores.probability for scores in paraphrases]))
        if paraphrases
        else None,
        "truth_ratio": truth_ratio(right_nll, wrong_nll) if wrong else None,
    }


def attack_item(response: ResponseScores, text: str) -> dict[str, float | None]:
    """One example's scores under the membership attacks, beside `nll_nats`, which is LOSS.

    Args:
        response: The true response, scored with moments.
        text: Its text.
    """
    return {
        "zlib_nats": zlib_score(response.nll_nats, text),
        "min_k_nats": response.min_k_nats,
        "min_k_plus_plus": response.min_k_plus_plus,
    }
