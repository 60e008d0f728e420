"""The answers whose probability is watched while others are pushed down: targets, their rephrasings,
likelihood bands, unrelated text.

Source: BS figure 2 (bands of beam-searched candidates of the original model, split at 20 and 60 %).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from trainables.benchmarks.encoded_benchmark import EncodedBenchmark
from trainables.data.encoding import Encoded, encode_example
from trainables.data.examples import Benchmark, ClosedQuestion, Example
from trainables.generation.beam_search import beam_search
from trainables.generation.inference import Ids, Inference
from trainables.metrics.closed_world_mass import fact_of
from trainables.metrics.scoring import score_responses

Item = TypeVar("Item")
PREFIX = "bands/"
SPARE_TOKENS = 4
"""By how much a candidate may be longer than the longest forget answer."""
BANDS = (("high", 0.0, 0.2), ("mid", 0.2, 0.6), ("low", 0.6, 1.0))
"""Name, and the shares of candidates, the most likely first, that it lies between."""


def split_into_bands(ranked: Sequence[Item]) -> dict[str, list[Item]]:
    """Cut candidates, most likely first, into bands; every band has one at least where there are three."""
    found = {}
    for name, start, end in BANDS:
        first, last = round(start * len(ranked)), round(end * len(ranked))
        found[name] = list(ranked[first : max(last, first + (len(ranked) >= len(BANDS)))])
    return found


def bands_of(original: Inference, targets: Sequence[Encoded], beams: int) -> dict[str, list[Encoded]]:
    """What else the original model would say to the forget prompts, by likelihood.

    Args:
        original: The model before unlearning.
        targets: Forget examples; their own answers are left out.
        beams: Candidates per prompt.

    Returns:
        Candidates by band, in the order of targets, equal on every rank. Ranks: all.
    """
    longest = max((len(target.answer) for target in targets), default=1) + SPARE_TOKENS
    mine = range(original.rank, len(targets), original.world_size)
    found: list[tuple[int, list[Ids]]] = []
    for call in range(
        math.ceil(len(targets) / original.world_size)
    ):  # one prompt at a time: every prompt has many beams
        chosen = mine[call : call + 1]
        prompts = [targets[index].ids[: targets[index].prompt_length] for index in chosen]
        beamed = beam_search(original, prompts, beams, longest)
        found += [
            (index, [ids for _, ids in group if ids != targets[index].answer])
            for index, group in zip(chosen, beamed, strict=True)
        ]
    bands: dict[str, list[Encoded]] = {name: [] for name, _, _ in BANDS}
    for index, candidates in sorted(original.gather(found)):
        target = targets[index]
        for name, members in split_into_bands(candidates).items():
            bands[name] += [replace(target, ids=target.ids[: target.prompt_length] + ids) for ids in members]
    return bands


def band_groups(
    original: Inference, data: EncodedBenchmark, beams: int, examples: int
) -> dict[str, list[Encoded]]:
    """Targets, their rephrasings where the data has them, and the bands, of the first forget examples. Ranks:
    all."""
    targets = list(data.forget[:examples])
    groups = {
        "target": targets,
        "rephrasing": rephrasings(original.tokenizer, data.benchmark, data.benchmark.forget[:examples]),
    }
    groups |= {f"{name} band": members for name, members in bands_of(original, targets, beams).items()}
    return {name: members for name, members in groups.items() if members}


def band_metrics(model: Inference, probes: Mapping[str, Sequence[Encoded]]) -> dict[str, float]:
    """Mean log-probability per response of each group, in nats, as `bands/high_band_nats`. Ranks: all."""
    metrics = {}
    for name, members in probes.items():
        mine = score_responses(model, members)
        sums = model.gather(
            [(index, -scores.nll_nats * len(members[index].answer)) for index, scores in mine.items()]
        )
        metrics[f"{PREFIX}{name.replace(' ', '_')}_nats"] = math.fsum(
            value for _, value in sorted(sums)
        ) / len(members)
    return metrics


def as_json(probes: Mapping[str, Sequence[Encoded]]) -> dict[str, list[Any]]:
    """Probes as plain values."""
    return {
        name: [[item.id, list(item.ids), item.prompt_length, item.ended] for item in members]
        for name, members in probes.items()
    }


def from_json(stored: Mapping[str, Sequence[Any]]) -> dict[str, list[Encoded]]:
    """What `as_json` gave."""
    return {
        name: [Encoded(one, tuple(ids), length, ended) for one, ids, length, ended in rows]
        for name, rows in stored.items()
    }


def rephrasings(
    tokenizer: PreTrainedTokenizerBase, benchmark: Benchmark, forget: Sequence[Example]
) -> list[Encoded]:
    """Other wordings of forget answers, where the data has them: paraphrases, or the closed world's other
    phrasings of the true value."""
    questions = [question for part in benchmark.parts.values() for question in part.questions]
    facts = {fact_of(question.id): question for question in questions if question.subset == "forget"}
    return [
        encode_example(tokenizer, example, text)
        for example in forget
        for text in (*example.paraphrases, *_other_phrasings(facts.get(fact_of(example.id))))
    ]


def _other_phrasings(question: ClosedQuestion | None) -> list[str]:
    if question is None:
        return []
    row = question.responses[question.true_value]
    return [text for place, text in enumerate(row) if place != question.canonical]
