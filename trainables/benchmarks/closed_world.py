"""The closed world: a generated benchmark of invented people whose facts and phrasings are all listed.

Source: method.md section 6 (semantic mass without a judge).
"""

from fractions import Fraction
from itertools import product
from typing import NamedTuple

import numpy as np

from search_spaces.settings.data_settings import ClosedWorldData
from search_spaces.user_errors import UserError
from trainables.benchmarks.world_text import ATTRIBUTES, Attribute, words
from trainables.data.examples import Benchmark, ClosedQuestion, EvaluationPart, Example, make_benchmark

MOST_PEOPLE = 1000
LARGEST_DENOMINATOR = 50
"""Denominator limit of a canonical weight, whose numerator and denominator become copies of examples."""

ONSETS = words("b br d dr f fl g gr h j k kl l m n p pr r s st t tr v z")
VOWELS = words("a e i o u")
CODAS = words("l m n r s x")


class Fact(NamedTuple):
    """One attribute of one person."""

    id: str
    person: int
    name: str
    attribute: Attribute
    value: int


def build_closed_world(settings: ClosedWorldData) -> Benchmark:
    """Generate the world of `settings`: the same settings give the same text, byte for byte.

    The last `forget_people` people are forgotten. The forget set is the canonical answer to each of their
    facts, with one training template as the question; their rephrasings are never shown to the unlearner. The
    retain set is the other people's training text in all phrasings: canonical answers alone would teach the
    policy to prefer them, and hide where the forgotten mass goes.

    Evaluation questions use templates that no training text uses: forget facts come in all templates of the
    part, retained people once each, with one attribute in turn.

    Raises:
        UserError: More people are requested than there are names.
    """
    if settings.people > MOST_PEOPLE:
        raise UserError(
            "too many people",
            key="data.people",
            value=settings.people,
            allowed=f"at most {MOST_PEOPLE}",
            remedy="lower it",
        )
    facts = _facts(settings)
    first_forgotten = settings.people - settings.forget_people
    forgotten = [fact for fact in facts if fact.person >= first_forgotten]
    retained = [fact for fact in facts if fact.person < first_forgotten]
    forget = [
        # The facts take turns through the templates, so that the forget set does not teach one form of
        # question.
        _canonical(fact, index % len(fact.attribute.training), fact.id)
        for index, fact in enumerate(forgotten)
    ]
    # The target model learns both texts, the retrained model only the retained one.
    retained_text = [example for fact in retained for example in _text(fact, settings)]
    forgotten_text = [example for fact in forgotten for example in _text(fact, settings)]
    parts = {
        "validation": EvaluationPart(questions=_questions(forgotten, retained, settings, "validation")),
        "test": EvaluationPart(questions=_questions(forgotten, retained, settings, "test")),
    }
    return make_benchmark(forget, retained_text, retained_text + forgotten_text, retained_text, parts)


def phrasing_counts(canonical_weight: float, phrasings: int) -> tuple[int, int]:
    """Return the copies of the canonical and of each other phrasing that give the canonical one its weight.

    >>> phrasing_counts(0.5, 5)
    (4, 1)
    """
    weight = Fraction(canonical_weight).limit_denominator(LARGEST_DENOMINATOR)
    # At least one copy of every phrasing is needed: a weight of 0 or 1 would leave one kind out of the
    # training text.
    weight = min(max(weight, Fraction(1, LARGEST_DENOMINATOR)), 1 - Fraction(1, LARGEST_DENOMINATOR))
    ratio = weight * (phrasings - 1) / (1 - weight)
    return ratio.numerator, ratio.denominator


def _facts(settings: ClosedWorldData) -> list[Fact]:
    generator = np.random.default_rng([settings.seed % 2**63, settings.people])
    attributes = ATTRIBUTES[: settings.attributes]
    # The generator is used in a fixed order, names first: another order would make another world of the same
    # seed.
    names = _names(generator, settings.people)
    # Every value is equally frequent (up to one), so that a guess of the most frequent one gains nothing.
    columns = [generator.permutation(np.arange(settings.people) % settings.values) for _ in attributes]
    # Ids are padded with zeros, so that their alphabetical order is that of the people.
    width = len(str(settings.people - 1))
    return [
        Fact(f"p{person:0{width}d}/{attribute.name}", person, names[person], attribute, int(column[person]))
        for person in range(settings.people)
        for attribute, column in zip(attributes, columns, strict=True)
    ]


def _names(generator: np.random.Generator, people: int) -> list[str]:
    """Draw pronounceable first and last names without repetition, so that either one identifies a person."""
    # Two shapes of words (CVCV and CVCVC), so that no first name is a last name.
    firsts = [a + b + c + d for a, b, c, d in product(ONSETS, VOWELS, ("l", "m", "n", "r", "t", "v"), VOWELS)]
    lasts = [a + b + c + d + e for a, b, c, d, e in product(ONSETS, VOWELS, ONSETS, VOWELS, CODAS)]
    first = generator.choice(len(firsts), size=people, replace=False)
    last = generator.choice(len(lasts), size=people, replace=False)
    return [f"{firsts[i].capitalize()} {lasts[j].capitalize()}" for i, j in zip(first, last, strict=True)]


def _prompt(template: str, fact: Fact) -> str:
    return template.format(name=fact.name)


def _answer(fact: Fact, value: int, phrasing: int) -> str:
    return fact.attribute.phrasings[phrasing].format(value=fact.attribute.values[value])


def _canonical(fact: Fact, template: int, example_id: str) -> Example:
    return Example(example_id, _prompt(fact.attribute.training[template], fact), _answer(fact, fact.value, 0))


def _text(fact: Fact, settings: ClosedWorldData) -> list[Example]:
    """Return the training text of a fact: every template with every phrasing, copied by weight."""
    canonical, other = phrasing_counts(settings.canonical_weight, settings.phrasings)
    copies = [canonical] + [other] * (settings.phrasings - 1)
    return [
        Example(
            f"{fact.id}/{template}/{phrasing}/{copy}",
            _prompt(words, fact),
            _answer(fact, fact.value, phrasing),
        )
        for template, words in enumerate(fact.attribute.training)
        for phrasing, times in enumerate(copies)
        for copy in range(times)
    ]


def _questions(
    forgotten: list[Fact], retained: list[Fact], settings: ClosedWorldData, part: str
) -> tuple[ClosedQuestion, ...]:
    questions = [
        _question(fact, "forget", template, settings, part)
        for fact in forgotten
        for template in range(len(_group(fact.attribute, part)))
    ]
    # The test part takes the attribute after that of the validation part, so that no retained fact is in
    # both.
    turn = 1 if part == "test" else 0
    for fact in retained:
        attribute = ATTRIBUTES.index(fact.attribute)
        if attribute == (fact.person + turn) % settings.attributes:
            # People with the same attribute take turns through its templates.
            template = fact.person // settings.attributes % len(_group(fact.attribute, part))
            questions.append(_question(fact, "retain", template, settings, part))
    return tuple(questions)


def _group(attribute: Attribute, part: str) -> tuple[str, ...]:
    return attribute.test if part == "test" else attribute.validation


def _question(fact: Fact, subset: str, template: int, settings: ClosedWorldData, part: str) -> ClosedQuestion:
    responses = tuple(
        tuple(_answer(fact, value, phrasing) for phrasing in range(settings.phrasings))
        for value in range(settings.values)
    )
    prompt = _prompt(_group(fact.attribute, part)[template], fact)
    # Only forgotten facts are probed by paraphrases; the training templates serve as such.
    paraphrases = (
        tuple(_prompt(words, fact) for words in fact.attribute.training) if subset == "forget" else ()
    )
    return ClosedQuestion(
        f"{fact.id}/{part}/{template}", prompt, subset, responses, fact.value, paraphrases=paraphrases
    )
