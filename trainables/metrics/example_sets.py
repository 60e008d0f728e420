"""Scores example sets: one teacher-forced pass over all responses, one generation pass over all prompts."""

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
"""Sets that are scored but get no generated answers.

No model was trained on their answers, and generation is most of an evaluation's time.
"""


@dataclass(frozen=True)
class AnswerFormat:
    """How answers to the examples of a set are generated and scored."""

    max_new_tokens: int | None = None
    """Longest answer in tokens, where it is shorter than the evaluation's limit."""
    stops: tuple[str, ...] = ()
    """Texts that an answer is cut at: base models continue with a question of their own."""
    cuts_reference: bool = False
    """Whether the true text is cut to as many tokens as the answer may have; MUSE's passages are longer."""
    f1: bool = False
    """Whether ROUGE-L's F1 is computed beside its recall."""


MAX_NEW_TOKENS = 200
"""Longest answer in tokens, as in the published evaluations: recall counts every word within it."""
USUAL_FORMAT = AnswerFormat()
KNOWMEM_FORMAT = AnswerFormat(max_new_tokens=32, stops=("\n\n", "\nQuestion", "Question:"), f1=True)
ANSWER_FORMATS = {
    "verbmem": AnswerFormat(max_new_tokens=128, cuts_reference=True, f1=True),
    "forget_knowmem": KNOWMEM_FORMAT,
    "retain_knowmem": KNOWMEM_FORMAT,
}
"""Sets with an answer format of their own: those of MUSE, as in its published evaluation."""


def score_sets(
    scorer: Scorer, sets: Mapping[str, Sequence[Example]], max_new_tokens: int
) -> dict[str, list[dict[str, Any]]]:
    """Score every example of every set, and generate answers to the prompts among them.

    Args:
        scorer: The opened model.
        sets: Examples by set name.
        max_new_tokens: Longest answer in tokens; with 0 nothing is generated.

    Returns:
        For each set its items: `id`; the fields of `score_item`; those of `attack_item` on forget and holdout
        items where both sets exist; those of `rouge_fields` where an answer was generated. Equal on every
        rank.
        Ranks: all.
    """
    examples = [(name, example) for name, members in sets.items() for example in members]
    # An attack compares two sets, so it is scored only where both exist.
    attacked = ATTACKED if all(sets.get(name) for name in ATTACKED) else ()
    responses = _score_all_responses(scorer, examples, attacked)
    answers = _score_answers(scorer, examples, max_new_tokens) if max_new_tokens else {}
    items: dict[str, list[dict[str, Any]]] = {name: [] for name, members in sets.items() if members}
    for index, ((name, example), scores) in enumerate(zip(examples, responses, strict=True)):
        # The scores of an example are its response, then its paraphrases, then its wrong answers.
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
    """Score each example's response, paraphrases and wrong answers, in this order."""
    encoded: list[Encoded] = []
    starts, with_moments = [0], set()
    for name, example in examples:
        if name in attacked:
            with_moments.add(len(encoded))
        for response in (example.response, *example.paraphrases, *example.perturbed):
            encoded.append(encode_example(scorer.tokenizer, example, response))
        # One flat list over all examples keeps the batches full, though examples have different numbers of
        # responses.
        starts.append(len(encoded))
    scores: dict[int, ResponseScores] = {}
    # One pass over every response. Attacked responses go in batches of their own, since only they pay for the
    # moments over the vocabulary.
    for moments in (False, True):
        chosen = [index for index in range(len(encoded)) if (index in with_moments) is moments]
        mine = score_responses(scorer, [encoded[index] for index in chosen], moments=moments)
        scores |= {chosen[place]: value for place, value in scorer.gather(list(mine.items()))}
    return [[scores[index] for index in range(start, end)] for start, end in pairwise(starts)]


def _score_answers(
    scorer: Scorer, examples: Sequence[tuple[str, Example]], max_new_tokens: int
) -> dict[int, dict[str, Any]]:
    """Generate a greedy answer to each example with a prompt; returns its fields by the example's index."""
    # Examples with one format share their batches. The dictionary keeps the order of the sets, which is the
    # same on every rank.
    by_format: dict[AnswerFormat, list[int]] = {}
    for index, (name, example) in enumerate(examples):
        if name not in NOT_ANSWERED and is_question(example):
            by_format.setdefault(ANSWER_FORMATS.get(name, USUAL_FORMAT), []).append(index)
    scored: list[tuple[int, dict[str, Any]]] = []
    for answer_format, chosen in by_format.items():
        prompts = [encode_question(scorer.tokenizer, examples[index][1]) for index in chosen]
        longest = min(max_new_tokens, answer_format.max_new_tokens or max_new_tokens)
        # ROUGE is slow: each rank computes it for the answers that it generated, before they are gathered.
        for place, answer in generate_answers(scorer, prompts, longest, answer_format.stops).items():
            index = chosen[place]
            reference = reference_of(scorer.tokenizer, examples[index][1], answer_format, longest)
            scored.append((index, rouge_fields(answer, reference, f1=answer_format.f1)))
    # Every rank gets every answer: the items must be equal on all of them.
    return dict(scorer.gather(scored))


def is_question(example: Example) -> bool:
    """Whether an example has a prompt to answer; running text without a prompt has none."""
    # An empty prompt of a chat example is still a user's turn, which the template wraps.
    return bool(example.prompt) or not example.plain


def reference_of(
    tokenizer: PreTrainedTokenizerBase, example: Example, answer_format: AnswerFormat, longest: int
) -> str:
    """Return the true text that an answer of at most `longest` tokens is compared with."""
    if not answer_format.cuts_reference:
        return example.response
    start = tokenizer.decode(tokenizer(example.response, add_special_tokens=False)["input_ids"][:longest])
    assert isinstance(start, str)
    return start


def rouge_fields(answer: str, reference: str, *, f1: bool) -> dict[str, Any]:
    """Score one generated answer by ROUGE-L.

    Args:
        answer: The generated text.
        reference: The true text.
        f1: Also compute `rouge_l_f1`.

    Returns:
        `generated` (the answer itself), `rouge_l`, and `rouge_l_f1` with `f1`.
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
    """Compute one example's metrics from the scores of its response, its paraphrases and its wrong answers.

    Args:
        response: Scores of the true response.
        paraphrases: Scores of other wordings of the response.
        wrong: Scores of the wrong answers.
        options: Normalise the probability over right and wrong answers (real authors, world facts).

    Returns:
        Values by field; None where the data does not allow one.
    """
    wrong_nll = [scores.nll_nats for scores in wrong]
    # Real authors and world facts have no paraphrases: their truth ratio compares with the answer itself.
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
    """Return one example's scores under the membership attacks, except LOSS, which is `nll_nats`.

    Args:
        response: Scores of the true response, computed with moments.
        text: Text of the response.
    """
    return {
        "zlib_nats": zlib_score(response.nll_nats, text),
        "min_k_nats": response.min_k_nats,
        "min_k_plus_plus": response.min_k_plus_plus,
    }
