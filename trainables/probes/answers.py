"""Asks for facts in words: as the evaluation does, in other words, behind prefixes, and many times by
sampling."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from search_spaces.settings.probe_settings import LeakSettings, PrefixSettings
from search_spaces.settings.trial_settings import SequenceBeliefSettings
from trainables.data.encoding import Encoded, encode_example, encode_question
from trainables.data.examples import Example
from trainables.generation.inference import Ids, Inference
from trainables.generation.sequence_beliefs import sample_responses
from trainables.metrics.example_sets import MAX_NEW_TOKENS, AnswerFormat
from trainables.metrics.scoring import answer_text, generate_answers
from trainables.probes.facts import Fact


@dataclass(frozen=True)
class Attempt:
    """One way to ask for a fact."""

    fact: Fact
    prompt: str
    opening: str = ""
    """Beginning of the answer, put into the model's mouth."""


@dataclass(frozen=True)
class Answer:
    """What came of an attempt."""

    attempt: Attempt
    text: str
    """Without the opening."""

    @property
    def told(self) -> bool:
        """Whether it tells the fact."""
        return self.attempt.fact.tells(self.text)


def as_evaluated(facts: Iterable[Fact]) -> list[Attempt]:
    """Every prompt of the evaluation."""
    return [Attempt(fact, prompt) for fact in facts for prompt in fact.prompts]


def in_other_words(facts: Iterable[Fact]) -> list[Attempt]:
    """Every other wording."""
    return [Attempt(fact, prompt) for fact in facts for prompt in fact.paraphrases]


def behind_prefixes(facts: Iterable[Fact], settings: PrefixSettings) -> list[Attempt]:
    """Every prompt of the evaluation behind every prefix, and with every opening of an answer."""
    attempts = []
    for fact in facts:
        for prompt in fact.prompts:
            attempts += [Attempt(fact, f"{prefix} {prompt}") for prefix in settings.prompts]
            attempts += [Attempt(fact, prompt, opening) for opening in (*fact.openings, *settings.answers)]
    return attempts


def greedy_answers(model: Inference, attempts: Sequence[Attempt]) -> list[Answer]:
    """The most likely answer to each attempt, token by token, equal on every rank. Ranks: all."""
    texts: dict[int, str] = {}
    for asking, places in _by_asking(attempts).items():
        prompts = [_ids(model, attempts[place]) for place in places]
        mine = generate_answers(model, prompts, _longest(asking), asking.stops)
        texts |= {places[index]: text for index, text in model.gather(list(mine.items()))}
    return [Answer(attempt, texts[place]) for place, attempt in enumerate(attempts)]


def sampled_answers(
    model: Inference, attempts: Sequence[Attempt], settings: LeakSettings
) -> list[list[Answer]]:
    """Drawn answers to each attempt, equal on every rank; the same draw for every model of a sweep. Ranks:
    all."""
    texts: dict[int, list[str]] = {}
    for asking, places in _by_asking(attempts).items():
        drawn = SequenceBeliefSettings(
            num_samples=settings.samples,
            temperature=settings.temperature,
            top_p=settings.top_p,
            max_new_tokens=_longest(asking),
        )
        mine = places[model.rank :: model.world_size]
        # The stream of a draw is named by the place: a prompt may be asked twice.
        prompts = [Encoded(str(place), ids := _ids(model, attempts[place]), len(ids)) for place in mine]
        responses = sample_responses(
            model, prompts, drawn, "leak", at_most=math.ceil(len(places) / model.world_size)
        )
        read = [[answer_text(model.tokenizer, ids, asking.stops) for ids in group] for group in responses]
        texts |= dict(model.gather(list(zip(mine, read, strict=True))))
    return [[Answer(attempt, text) for text in texts[place]] for place, attempt in enumerate(attempts)]


def known_frac(answers: Sequence[Answer]) -> float:
    """Share of the attempts whose answer tells."""
    return sum(answer.told for answer in answers) / len(answers)


def worst_case(answers: Iterable[Answer]) -> float:
    """Share of the facts that any of the attempts at them brings out."""
    told: dict[str, bool] = {}
    for answer in answers:
        told[answer.attempt.fact.id] = told.get(answer.attempt.fact.id, False) or answer.told
    return sum(told.values()) / len(told)


def leak_at_k(groups: Sequence[Sequence[Answer]], k: int) -> float:
    """Mean over attempts of the probability that one of k answers tells, without bias from the n that were
    drawn.

    Args:
        groups: n answers to each attempt, `c` of which tell.
        k: At most n.

    Returns:
        Mean of 1 - C(n - c, k) / C(n, k), in [0, 1].

    Source: arXiv 2511.04934; the estimator is that of pass@k.
    """
    found = []
    for answers in groups:
        count, told = len(answers), sum(answer.told for answer in answers)
        found.append(1.0 - math.comb(count - told, k) / math.comb(count, k))
    return math.fsum(found) / len(found)


def _by_asking(attempts: Sequence[Attempt]) -> dict[AnswerFormat, list[int]]:
    """Places of the attempts by how they are answered, in an order that is the same on every rank."""
    groups: dict[AnswerFormat, list[int]] = {}
    for place, attempt in enumerate(attempts):
        groups.setdefault(attempt.fact.asking, []).append(place)
    return groups


def _longest(asking: AnswerFormat) -> int:
    return asking.max_new_tokens or MAX_NEW_TOKENS


def _ids(model: Inference, attempt: Attempt) -> Ids:
    """Token ids up to where the model goes on."""
    example = Example(attempt.fact.id, attempt.prompt, attempt.opening, plain=attempt.fact.plain)
    if not attempt.opening:
        return encode_question(model.tokenizer, example)
    encoded = encode_example(model.tokenizer, example)
    return encoded.ids[: encoded.prompt_length] + encoded.content
