"""Likelihood bands: groups of answers whose log-probability is tracked while the forget set is unlearned.

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
"""Tokens by which a candidate may be longer than the longest forget answer."""
BANDS = (("high", 0.0, 0.2), ("mid", 0.2, 0.6), ("low", 0.6, 1.0))
"""Name, start and end of each band, as shares of the candidates ordered from most to least likely."""


def split_into_bands(ranked: Sequence[Item]) -> dict[str, list[Item]]:
    """Cut candidates, ordered from most to least likely, into bands."""
    found = {}
    for name, start, end in BANDS:
        first, last = round(start * len(ranked)), round(end * len(ranked))
        # Rounding may leave a band empty; with three candidates or more each band gets at least one.
        found[name] = list(ranked[first : max(last, first + (len(ranked) >= len(BANDS)))])
    return found


def bands_of(original: Inference, targets: Sequence[Encoded], beams: int) -> dict[str, list[Encoded]]:
    """Search the original model's most likely answers to forget prompts, and split them into bands.

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
    # One prompt per call, since every prompt brings many beams; the same number of calls on every rank.
    for call in range(math.ceil(len(targets) / original.world_size)):
        chosen = mine[call : call + 1]
        prompts = [targets[index].ids[: targets[index].prompt_length] for index in chosen]
        beamed = beam_search(original, prompts, beams, longest)
        found += [
            (index, [ids for _, ids in group if ids != targets[index].answer])
            for index, group in zip(chosen, beamed, strict=True)
        ]
    bands: dict[str, list[Encoded]] = {name: [] for name, _, _ in BANDS}
    # Sorted by index, so that the groups do not depend on the number of ranks.
    for index, candidates in sorted(original.gather(found)):
        target = targets[index]
        for name, members in split_into_bands(candidates).items():
            bands[name] += [replace(target, ids=target.ids[: target.prompt_length] + ids) for ids in members]
    return bands


def band_groups(
    original: Inference, data: EncodedBenchmark, beams: int, examples: int
) -> dict[str, list[Encoded]]:
    """Return targets, rephrasings and bands of the first forget examples; no empty group. Ranks: all."""
    targets = list(data.forget[:examples])
    groups = {
        "target": targets,
        "rephrasing": rephrasings(original.tokenizer, data.benchmark, data.benchmark.forget[:examples]),
    }
    groups |= {f"{name} band": members for name, members in bands_of(original, targets, beams).items()}
    return {name: members for name, members in groups.items() if members}


def band_metrics(model: Inference, probes: Mapping[str, Sequence[Encoded]]) -> dict[str, float]:
    """Return each group's mean log-probability per response, as `bands/high_band_nats`. Ranks: all."""
    metrics = {}
    for name, members in probes.items():
        mine = score_responses(model, members)
        # The mean NLL per token times the length is the summed log-probability.
        sums = model.gather(
            [(index, -scores.nll_nats * len(members[index].answer)) for index, scores in mine.items()]
        )
        # Summed in the order of the group and without rounding, so that every number of ranks gives the same
        # bits.
        metrics[f"{PREFIX}{name.replace(' ', '_')}_nats"] = math.fsum(
            value for _, value in sorted(sums)
        ) / len(members)
    return metrics


def as_json(probes: Mapping[str, Sequence[Encoded]]) -> dict[str, list[Any]]:
    """Convert groups of encoded answers to plain values for JSON."""
    return {
        name: [[item.id, list(item.ids), item.prompt_length, item.ended] for item in members]
        for name, members in probes.items()
    }


def from_json(stored: Mapping[str, Sequence[Any]]) -> dict[str, list[Encoded]]:
    """Convert the result of `as_json` back to groups of encoded answers."""
    return {
        name: [Encoded(one, tuple(ids), length, ended) for one, ids, length, ended in rows]
        for name, rows in stored.items()
    }


def rephrasings(
    tokenizer: PreTrainedTokenizerBase, benchmark: Benchmark, forget: Sequence[Example]
) -> list[Encoded]:
    """Encode rephrased forget answers: paraphrases, or the closed world's other true phrasings."""
    questions = [question for part in benchmark.parts.values() for question in part.questions]
    # Any question of a fact will do: all of them have the same responses.
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
