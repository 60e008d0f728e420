"""Sequence beliefs: the responses that the model itself would give to the forget prompts, sampled
data-parallel."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from search_spaces.settings.trial_settings import EngineSettings, SequenceBeliefSettings
from trainables.data.encoding import Encoded
from trainables.engine.zero3_engine import Engine
from trainables.generation.beam_search import beam_search
from trainables.generation.inference import Ids, Inference, Logps, answer_logps, inference


@dataclass(frozen=True)
class Belief:
    """One sampled response to a forget prompt."""

    encoded: Encoded
    reference_logp_nats: Logps | None = None
    """Of its tokens under the original model, where a method needs it."""


Beliefs = Mapping[str, tuple[Belief, ...]]
"""The belief store: samples by example id. Every rank holds all of it."""


class GumbelMax:
    """Draws tokens as argmax(logits / temperature + Gumbel noise), each row from a stream of its own.

    The noise of a row depends on (seed, refresh, example id, sample) alone, so beliefs do not depend on the
    number of workers or on which prompts share a batch.
    """

    def __init__(
        self, settings: SequenceBeliefSettings, streams: Sequence[str], device: torch.device
    ) -> None:
        self.temperature = settings.temperature
        self.warpers: list[LogitsProcessor] = [TopKLogitsWarper(settings.top_k)] if settings.top_k else []
        self.warpers += [TopPLogitsWarper(settings.top_p)] if settings.top_p < 1 else []
        self.generators = [
            torch.Generator(device).manual_seed(
                int.from_bytes(hashlib.sha256(stream.encode()).digest()[:7], "big")
            )
            for stream in streams
        ]

    def __call__(self, logits_BV: Tensor, position: int) -> Tensor:
        """Next token of every row, `[B]`."""
        scores = logits_BV / self.temperature
        for warper in self.warpers:
            scores = warper(torch.empty(0), scores)
        noise = torch.empty_like(scores)
        for row, generator in zip(noise, self.generators, strict=True):
            row.exponential_(generator=generator)
        return (scores - noise.log()).argmax(-1)


def sample_beliefs(
    engine: Engine,
    forget: Sequence[Encoded],
    settings: SequenceBeliefSettings,
    engine_settings: EngineSettings,
    *,
    seed: int,
    refresh: int,
    with_reference: bool,
) -> Beliefs:
    """Sample responses to every forget prompt from the policy as it is now.

    Duplicates are kept: they are the distribution. Empty samples are kept too, with the end token as their
    only target.

    Args:
        engine: Engine of the trial.
        forget: The whole forget set.
        settings: How many samples, and how they are drawn.
        engine_settings: Batch size, and whether every rank works on a full copy.
        seed: The trial's seed.
        refresh: How many times beliefs were sampled before.
        with_reference: Also score the samples under the original model (NPO).

    Returns:
        The belief store, equal on every rank.

    Source: BS section 4 (BS-S). Deviation: samples are stored per example for the whole forget set, where the
    published code samples for one micro-batch and reuses those for other prompts. Ranks: all.
    """
    mine = list(forget[engine.rank :: engine.world_size])
    at_most = math.ceil(len(forget) / engine.world_size)
    with inference(engine, engine_settings) as model:
        responses = sample_responses(model, mine, settings, f"{seed}/{refresh}", at_most=at_most)
    sampled = [
        Encoded(item.id, item.ids[: item.prompt_length] + response, item.prompt_length)
        for item, group in zip(mine, responses, strict=True)
        for response in group
    ]
    return share_answers(
        engine,
        engine_settings,
        sampled,
        at_most=at_most * settings.num_samples,
        with_reference=with_reference,
    )


def share_answers(
    engine: Engine,
    settings: EngineSettings,
    answers: Sequence[Encoded],
    *,
    at_most: int,
    with_reference: bool,
) -> Beliefs:
    """Tell all ranks the answers that this one has found, in their order.

    Args:
        engine: Engine of the trial.
        settings: How models are opened.
        answers: This rank's.
        at_most: Most answers that any rank has.
        with_reference: Also score them under the original model.

    Returns:
        Answers by example id, equal on every rank. Ranks: all.
    """
    logp: Sequence[Logps | None] = [None] * len(answers)
    if with_reference:
        with inference(engine, settings, "pristine") as model:
            logp = answer_logps(model, answers, at_most=at_most)
    store: dict[str, list[Belief]] = {}
    for encoded, reference in engine.gather(list(zip(answers, logp, strict=True))):
        store.setdefault(encoded.id, []).append(Belief(encoded, reference))
    return {example_id: tuple(group) for example_id, group in store.items()}


def sample_responses(
    model: Inference,
    prompts: Sequence[Encoded],
    settings: SequenceBeliefSettings,
    stream: str,
    *,
    at_most: int,
) -> list[list[Ids]]:
    """Sample responses to prompts, or search for the most likely ones.

    Args:
        model: The opened model.
        prompts: This rank's; what follows their prompts is not looked at.
        settings: How many samples, and how they are drawn.
        stream: Seeds the draw, together with each prompt's id and the number of the sample.
        at_most: Most prompts that any rank has.

    Returns:
        Per prompt its responses, end tokens included where they were reached. Ranks: all, when `lockstep`.
    """
    size = max(1, model.batch // settings.num_samples)
    responses: list[list[Ids]] = []
    for call in range(
        math.ceil(at_most / size)
    ):  # the same number on every rank: lock-step models gather their shards in each
        chunk = prompts[call * size : (call + 1) * size]
        prompt_ids = [item.ids[: item.prompt_length] for item in chunk]
        if settings.search == "beam":
            found = beam_search(model, prompt_ids, settings.num_samples, settings.max_new_tokens)
            responses += [[ids for _, ids in beams] for beams in found]
            continue
        streams = [f"{stream}/{item.id}/{sample}" for item in chunk for sample in range(settings.num_samples)]
        choose = GumbelMax(settings, streams, model.device)
        responses += model.generate(prompt_ids, settings.max_new_tokens, choose, settings.num_samples)
    return responses
