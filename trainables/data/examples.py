"""What a benchmark consists of: examples to train on, questions to evaluate, and a digest that names the
contents."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

Item = TypeVar("Item", "Example", "ChoiceQuestion")
LATER = ("plain", "questions")
"""Fields that leave digests as they are where they are empty."""


@dataclass(frozen=True)
class Example:
    """One prompt and its response."""

    id: str
    prompt: str
    response: str
    paraphrases: tuple[str, ...] = ()
    """Other wordings of the response."""
    perturbed: tuple[str, ...] = ()
    """Wrong answers, worded like the paraphrase (or like the response, where there is no paraphrase)."""
    questions: tuple[str, ...] = ()
    """Other wordings of the prompt."""
    plain: bool = False
    """The response follows the prompt as running text: no template around them, no end token. A prompt may be
    empty then."""


@dataclass(frozen=True)
class ClosedQuestion:
    """A question whose well-formed responses can all be listed: every value in every phrasing."""

    id: str
    prompt: str
    subset: str
    """`forget` or `retain`."""
    responses: tuple[tuple[str, ...], ...]
    """Values x phrasings."""
    true_value: int
    """Row of `responses` that is true."""
    canonical: int = 0
    """Column of `responses` that the forget set uses."""
    paraphrases: tuple[str, ...] = ()
    """Other wordings of the question, which only probes ask."""


@dataclass(frozen=True)
class ChoiceQuestion:
    """A multiple-choice question, answered by which continuation of its prompt is the likeliest."""

    id: str
    prompt: str
    """Running text, up to and without the answer."""
    choices: tuple[str, ...]
    """The continuations: ` A`, ` B` and so on."""
    right: int
    """Place of the right one."""


@dataclass(frozen=True)
class EvaluationPart:
    """The items of one part: `validation` guides the search, `test` is reported."""

    questions: tuple[ClosedQuestion, ...] = ()
    sets: Mapping[str, tuple[Example, ...]] = field(default_factory=dict)
    """By name: forget, retain, real_authors, world_facts, holdout, verbmem, forget_knowmem, retain_knowmem.
    """
    choices: Mapping[str, tuple[ChoiceQuestion, ...]] = field(default_factory=dict)
    """By name: wmdp, mmlu."""


@dataclass(frozen=True)
class Benchmark:
    """Everything that a sweep needs of its data."""

    forget: tuple[Example, ...]
    retain: tuple[Example, ...]
    target_text: tuple[Example, ...]
    """What the target model is trained on when it is prepared from a base."""
    retrained_text: tuple[Example, ...]
    """The same without the forget set."""
    parts: Mapping[str, EvaluationPart]
    """`validation` and `test`."""
    digest: str
    """sha256 of all contents."""


def make_benchmark(
    forget: Sequence[Example],
    retain: Sequence[Example],
    target_text: Sequence[Example],
    retrained_text: Sequence[Example],
    parts: Mapping[str, EvaluationPart],
) -> Benchmark:
    """Freeze the contents and add their digest."""
    contents = {
        "forget": contents_of(forget),
        "retain": contents_of(retain),
        "target_text": contents_of(target_text),
        "retrained_text": contents_of(retrained_text),
        "parts": {name: _part_contents(part) for name, part in parts.items()},
    }
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
    return Benchmark(
        tuple(forget), tuple(retain), tuple(target_text), tuple(retrained_text), dict(parts), digest
    )


def contents_of(examples: Iterable[Example]) -> list[dict[str, Any]]:
    """Plain values of examples, for digests: what is only in newer data must not change the digest of
    older."""
    return [
        {name: value for name, value in vars(example).items() if name not in LATER or value}
        for example in examples
    ]


def _part_contents(part: EvaluationPart) -> dict[str, object]:
    contents: dict[str, object] = {
        "questions": [vars(question) for question in part.questions],
        "sets": {name: contents_of(examples) for name, examples in part.sets.items()},
    }
    if part.choices:
        contents["choices"] = {
            name: [vars(question) for question in questions] for name, questions in part.choices.items()
        }
    return contents


def draw_by_hash(items: Iterable[Item], most: int | None = None) -> list[Item]:
    """Items in the order of the sha256 of their ids, the first `most` of them: a draw that no seed and no
    file order can move."""
    ordered = sorted(items, key=lambda item: (hashlib.sha256(item.id.encode()).hexdigest(), item.id))
    return ordered[:most]


def split_by_hash(
    items: Iterable[Item], validation_share: float
) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Divide evaluation items between the search and the report.

    Args:
        items: Items with distinct ids.
        validation_share: Share that the search sees. Each part gets at least one item, since a part without
            items has no metrics; a single item is in both.

    Returns:
        The validation and the test items.
    """
    ordered = draw_by_hash(items)
    if len(ordered) < 2:
        return tuple(ordered), tuple(ordered)
    cut = min(max(round(len(ordered) * validation_share), 1), len(ordered) - 1)
    return tuple(ordered[:cut]), tuple(ordered[cut:])


def split_sets(
    sets: Mapping[str, Sequence[Example]],
    validation_share: float,
    most: int | None,
    choices: Mapping[str, Sequence[ChoiceQuestion]] | None = None,
) -> dict[str, EvaluationPart]:
    """Split every named set into its validation and test part, at most `most` items per set; empty sets are
    left out."""
    halves, asked = _halves(sets, validation_share, most), _halves(choices or {}, validation_share, most)
    return {
        part: EvaluationPart(
            sets={name: half[place] for name, half in halves.items()},
            choices={name: half[place] for name, half in asked.items()},
        )
        for place, part in enumerate(("validation", "test"))
    }


def _halves(
    sets: Mapping[str, Sequence[Item]], validation_share: float, most: int | None
) -> dict[str, tuple[tuple[Item, ...], tuple[Item, ...]]]:
    return {
        name: split_by_hash(draw_by_hash(items, most), validation_share)
        for name, items in sets.items()
        if items
    }
