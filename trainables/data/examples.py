"""The parts of a benchmark: examples to train on, questions to evaluate, and a digest of the contents."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

Item = TypeVar("Item", "Example", "ChoiceQuestion")
LATER = ("plain", "questions")
"""Fields added later: where they are empty they are left out of digests, which then stay as they were."""


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
    """Whether the response follows the prompt as running text, without template and end token.

    The prompt may then be empty.
    """


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
    """Other wordings of the question, which only probes use."""


@dataclass(frozen=True)
class ChoiceQuestion:
    """A multiple-choice question: the model's answer is the most likely continuation of the prompt."""

    id: str
    prompt: str
    """Running text, up to and without the answer."""
    choices: tuple[str, ...]
    """The continuations: ` A`, ` B` and so on."""
    right: int
    """Index of the right choice."""


@dataclass(frozen=True)
class EvaluationPart:
    """The items of one part: `validation` guides the search, `test` is reported."""

    questions: tuple[ClosedQuestion, ...] = ()
    sets: Mapping[str, tuple[Example, ...]] = field(default_factory=dict)
    """Example sets by name.

    The names are forget, retain, real_authors, world_facts, holdout, verbmem, forget_knowmem and
    retain_knowmem.
    """
    choices: Mapping[str, tuple[ChoiceQuestion, ...]] = field(default_factory=dict)
    """Multiple-choice questions by name: wmdp, mmlu."""


@dataclass(frozen=True)
class Benchmark:
    """The data of a sweep."""

    forget: tuple[Example, ...]
    """Examples to unlearn."""
    retain: tuple[Example, ...]
    """Examples to keep."""
    target_text: tuple[Example, ...]
    """Training text of the target model when it is prepared from a base."""
    retrained_text: tuple[Example, ...]
    """Training text of the retrained model: the target's text without the forget set."""
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
    """Make a benchmark from its contents, with their digest."""
    # The digest identifies baselines and measurements on disk: its layout must not change.
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
    """Convert examples to plain values for a digest; empty fields that were added later are left out."""
    return [
        {name: value for name, value in vars(example).items() if name not in LATER or value}
        for example in examples
    ]


def _part_contents(part: EvaluationPart) -> dict[str, object]:
    contents: dict[str, object] = {
        "questions": [vars(question) for question in part.questions],
        "sets": {name: contents_of(examples) for name, examples in part.sets.items()},
    }
    # Left out where empty, like the later fields of examples.
    if part.choices:
        contents["choices"] = {
            name: [vars(question) for question in questions] for name, questions in part.choices.items()
        }
    return contents


def draw_by_hash(items: Iterable[Item], most: int | None = None) -> list[Item]:
    """Order items by the sha256 of their ids and return the first `most`: a draw without a seed."""
    # Neither the order in a file nor a seed changes the draw, so all sweeps compare on the same items.
    ordered = sorted(items, key=lambda item: (hashlib.sha256(item.id.encode()).hexdigest(), item.id))
    return ordered[:most]


def split_by_hash(
    items: Iterable[Item], validation_share: float
) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Split evaluation items into a part for the search and a part for the report.

    Args:
        items: Items with distinct ids.
        validation_share: Share of the items in the validation part. Each part gets at least one item, since a
            part without items has no metrics; a single item is in both.

    Returns:
        The validation and the test items.
    """
    ordered = draw_by_hash(items)
    if len(ordered) < 2:
        return tuple(ordered), tuple(ordered)
    # Both parts keep at least one item, whatever the share.
    cut = min(max(round(len(ordered) * validation_share), 1), len(ordered) - 1)
    return tuple(ordered[:cut]), tuple(ordered[cut:])


def split_sets(
    sets: Mapping[str, Sequence[Example]],
    validation_share: float,
    most: int | None,
    choices: Mapping[str, Sequence[ChoiceQuestion]] | None = None,
) -> dict[str, EvaluationPart]:
    """Split every named set into validation and test part; empty sets are left out.

    Args:
        sets: Examples by set name.
        validation_share: Share of each set in the validation part.
        most: Largest number of items per set, both parts together; None: all.
        choices: Multiple-choice questions by name, split in the same way.
    """
    halves = _halves(sets, validation_share, most)
    choice_halves = _halves(choices or {}, validation_share, most)
    return {
        part: EvaluationPart(
            sets={name: half[place] for name, half in halves.items()},
            choices={name: half[place] for name, half in choice_halves.items()},
        )
        for place, part in enumerate(("validation", "test"))
    }


def _halves(
    sets: Mapping[str, Sequence[Item]], validation_share: float, most: int | None
) -> dict[str, tuple[tuple[Item, ...], tuple[Item, ...]]]:
    return {
        # Drawn before it is split: the validation share is one of the items in use, not of the whole set.
        name: split_by_hash(draw_by_hash(items, most), validation_share)
        for name, items in sets.items()
        if items
    }
