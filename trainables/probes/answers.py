"""Question probes: prompts as evaluated, paraphrased, behind prefixes, and sampled many times."""

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
    """One question for a fact."""

    fact: Fact
    """The fact that the question is about."""
    prompt: str
    """The question."""
    opening: str = ""
    """Prefilled beginning of the answer, which the model continues."""


@dataclass(frozen=True)
class Answer:
    """The model's answer to an attempt."""

    attempt: Attempt
    """The question."""
    text: str
    """The generated text, without the opening."""

    @property
    def reveals(self) -> bool:
        """Whether the answer reveals the fact."""
        return self.attempt.fact.revealed_by(self.text)


def as_evaluated(facts: Iterable[Fact]) -> list[Attempt]:
    """Make one attempt for every prompt of the evaluation."""
    return [Attempt(fact, prompt) for fact in facts for prompt in fact.prompts]


def in_other_words(facts: Iterable[Fact]) -> list[Attempt]:
    """Make one attempt for every paraphrase of a question."""
    return [Attempt(fact, prompt) for fact in facts for prompt in fact.paraphrases]


def behind_prefixes(facts: Iterable[Fact], settings: PrefixSettings) -> list[Attempt]:
    """Make attempts of every prompt with every prefix in front, and with every opening of an answer."""
    attempts = []
    for fact in facts:
        for prompt in fact.prompts:
            attempts += [Attempt(fact, f"{prefix} {prompt}") for prefix in settings.prompts]
            attempts += [Attempt(fact, prompt, opening) for opening in (*fact.openings, *settings.answers)]
    return attempts


def greedy_answers(model: Inference, attempts: Sequence[Attempt]) -> list[Answer]:
    """Generate the greedy answer to each attempt, equal on every rank. Ranks: all."""
    texts: dict[int, str] = {}
    for answer_format, places in _by_format(attempts).items():
        prompts = [_ids(model, attempts[place]) for place in places]
        mine = generate_answers(model, prompts, _longest(answer_format), answer_format.stops)
        # Ranks answer different attempts, and all need all answers.
        texts |= {places[index]: text for index, text in model.gather(list(mine.items()))}
    return [Answer(attempt, texts[place]) for place, attempt in enumerate(attempts)]


def sampled_answers(
    model: Inference, attempts: Sequence[Attempt], settings: LeakSettings
) -> list[list[Answer]]:
    """Sample answers to each attempt, equal on every rank. Ranks: all."""
    # No seed of a trial enters: every model of a sweep gets the same random numbers, so that models differ by
    # their probabilities alone.
    texts: dict[int, list[str]] = {}
    for answer_format, places in _by_format(attempts).items():
        drawn = SequenceBeliefSettings(
            num_samples=settings.samples,
            temperature=settings.temperature,
            top_p=settings.top_p,
            max_new_tokens=_longest(answer_format),
        )
        mine = places[model.rank :: model.world_size]
        # The random stream is named by the attempt's index, since two attempts may have the same prompt.
        prompts = [Encoded(str(place), ids := _ids(model, attempts[place]), len(ids)) for place in mine]
        responses = sample_responses(
            model, prompts, drawn, "leak", at_most=math.ceil(len(places) / model.world_size)
        )
        read = [
            [answer_text(model.tokenizer, ids, answer_format.stops) for ids in group] for group in responses
        ]
        texts |= dict(model.gather(list(zip(mine, read, strict=True))))
    return [[Answer(attempt, text) for text in texts[place]] for place, attempt in enumerate(attempts)]


def known_frac(answers: Sequence[Answer]) -> float:
    """Return the share of attempts whose answer reveals the fact."""
    return sum(answer.reveals for answer in answers) / len(answers)


def worst_case(answers: Iterable[Answer]) -> float:
    """Return the share of facts that at least one attempt reveals."""
    revealed: dict[str, bool] = {}
    for answer in answers:
        revealed[answer.attempt.fact.id] = revealed.get(answer.attempt.fact.id, False) or answer.reveals
    return sum(revealed.values()) / len(revealed)


def leak_at_k(groups: Sequence[Sequence[Answer]], k: int) -> float:
    """Estimate leak@k: the mean probability that at least one of k sampled answers reveals the fact.

    Args:
        groups: n sampled answers to each attempt, `c` of which reveal the fact.
        k: Number of answers, at most n.

    Returns:
        Mean of 1 - C(n - c, k) / C(n, k), in [0, 1].

    Source: arXiv 2511.04934; the unbiased estimator is that of pass@k.
    """
    found = []
    for answers in groups:
        count, leaks = len(answers), sum(answer.reveals for answer in answers)
        # Of all ways to choose k of the n answers, the share without a leak; comb is 0 if k answers cannot
        # all be clean.
        found.append(1.0 - math.comb(count - leaks, k) / math.comb(count, k))
    return math.fsum(found) / len(found)


def _by_format(attempts: Sequence[Attempt]) -> dict[AnswerFormat, list[int]]:
    """Group the indices of attempts by answer format, in an order that is the same on every rank."""
    groups: dict[AnswerFormat, list[int]] = {}
    for place, attempt in enumerate(attempts):
        groups.setdefault(attempt.fact.answer_format, []).append(place)
    return groups


def _longest(answer_format: AnswerFormat) -> int:
    return answer_format.max_new_tokens or MAX_NEW_TOKENS


def _ids(model: Inference, attempt: Attempt) -> Ids:
    """Encode an attempt up to the point where the model continues."""
    example = Example(attempt.fact.id, attempt.prompt, attempt.opening, plain=attempt.fact.plain)
    if not attempt.opening:
        return encode_question(model.tokenizer, example)
    # Encoded as a whole answer and cut before its end token, so that the opening has the ids of training.
    encoded = encode_example(model.tokenizer, example)
    return encoded.ids[: encoded.prompt_length] + encoded.content
