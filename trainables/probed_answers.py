"""The answers whose probability is watched while others are pushed down: targets, their rephrasings, likelihood bands, unrelated text.

Source: BS figure 2 (bands of beam-searched candidates of the original model, split at 20 and 60 %).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from trainables.beam_search import beam_search
from trainables.data.encoding import Encoded, encode_example
from trainables.data.examples import Benchmark, ClosedQuestion, Example
from trainables.inference import Inference
from trainables.metrics.closed_world_mass import fact_of

Item = TypeVar("Item")
BANDS = (("high", 0.0, 0.2), ("mid", 0.2, 0.6), ("low", 0.6, 1.0))
"""Name, and the shares of candidates, the most likely first, that it lies between."""


def split_into_bands(ranked: Sequence[Item]) -> dict[str, list[Item]]:
    """Cut candidates, most likely first, into bands; every band has one at least where there are three."""
    found = {}
    for name, start, end in BANDS:
        first, last = round(start * len(ranked)), round(end * len(ranked))
        found[name] = list(ranked[first : max(last, first + (len(ranked) >= len(BANDS)))])
    return found


def bands_of(original: Inference, targets: Sequence[Encoded], beams: int, max_new_tokens: int) -> dict[str, list[Encoded]]:
    """What else the original model would say to the forget prompts, by likelihood.

    Args:
        original: The model before unlearning.
        targets: Forget examples; their own answers are left out.
        beams: Candidates per prompt.
        max_new_tokens: Longest candidate.
    """
    bands: dict[str, list[Encoded]] = {name: [] for name, _, _ in BANDS}
    for target in targets:  # one prompt at a time: every prompt has many beams
        (found,) = beam_search(original, [target.ids[: target.prompt_length]], beams, max_new_tokens)
        others = [ids for _, ids in found if ids != target.answer]
        for name, members in split_into_bands(others).items():
            bands[name] += [replace(target, ids=target.ids[: target.prompt_length] + ids) for ids in members]
    return bands


def rephrasings(tokenizer: object, benchmark: Benchmark, forget: Sequence[Example]) -> list[Encoded]:
    """Other wordings of forget answers, where the data has them: paraphrases, or the closed world's other phrasings of the true value."""
    questions = [question for part in benchmark.parts.values() for question in part.questions]
    facts = {fact_of(question.id): question for question in questions if question.subset == "forget"}
    return [
        encode_example(tokenizer, example, text)  # type: ignore[arg-type]
        for example in forget
        for text in (*example.paraphrases, *_other_phrasings(facts.get(fact_of(example.id))))
    ]


def _other_phrasings(question: ClosedQuestion | None) -> list[str]:
    if question is None:
        return []
    row = question.responses[question.true_value]
    return [text for place, text in enumerate(row) if place != question.canonical]
