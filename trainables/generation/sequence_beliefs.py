"""Sequence beliefs (BS-S): responses that the model itself gives to forget prompts, sampled on all ranks."""

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
    """Token ids of prompt and response."""
    reference_logp_nats: Logps | None = None
    """Log-probability of each answer token under the original model; None for methods without a reference."""


Beliefs = Mapping[str, tuple[Belief, ...]]
"""The belief store: samples by example id. Every rank holds all of it."""


class GumbelMax:
    """Samples tokens as argmax(logits / temperature + Gumbel noise), with a random stream for each row.

    The noise of a row depends on (seed, refresh, example id, sample) alone, so beliefs do not depend on the
    number of workers or on which prompts share a batch.
    """

    def __init__(
        self, settings: SequenceBeliefSettings, streams: Sequence[str], device: torch.device
    ) -> None:
        self.temperature = settings.temperature
        # Temperature first, then top-k, then top-p: the order of transformers' own sampling.
        self.warpers: list[LogitsProcessor] = [TopKLogitsWarper(settings.top_k)] if settings.top_k else []
        self.warpers += [TopPLogitsWarper(settings.top_p)] if settings.top_p < 1 else []
        self.generators = [
            torch.Generator(device).manual_seed(
                int.from_bytes(hashlib.sha256(stream.encode()).digest()[:7], "big")
            )
            for stream in streams
        ]

    def __call__(self, logits_BV: Tensor, position: int) -> Tensor:
        """Sample the next token of every row, `[B]`."""
        scores = logits_BV / self.temperature
        for warper in self.warpers:
            scores = warper(torch.empty(0), scores)  # these warpers ignore the token ids
        noise = torch.empty_like(scores)
        # Minus the log of an exponential variable is Gumbel noise. Row by row, since a generator draws one
        # stream: the other rows of a batch must not shift it.
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
    """Sample responses to every forget prompt from the current policy.

    Duplicates are kept, since they represent the distribution. Empty samples are kept too, with the end token
    as their only target.

    Args:
        engine: Engine of the trial.
        forget: The whole forget set.
        settings: Number of samples, temperature, truncation and length.
        engine_settings: Batch size, and whether every rank works on a full copy.
        seed: Seed of the trial.
        refresh: Number of earlier samplings of beliefs.
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
    """Gather the answers of all ranks, in the order of ranks, with reference log-probabilities if needed.

    Args:
        engine: Engine of the trial.
        settings: How models are opened.
        answers: Answers of this rank.
        at_most: Largest number of answers on any rank.
        with_reference: Also score the answers under the original model.

    Returns:
        Answers by example id, equal on every rank. Ranks: all.
    """
    # Scored before the gather, so that each rank runs the reference on its own share only.
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
    """Sample responses to prompts, or find the most likely ones by beam search.

    Args:
        model: The opened model.
        prompts: Examples of this rank; only their prompts are used.
        settings: Number of samples, temperature, truncation, length, and sampling or beam search.
        stream: Seed of the draw, together with each prompt's id and the number of the sample.
        at_most: Largest number of prompts on any rank.

    Returns:
        For each prompt its responses, end tokens included where they were reached. Ranks: all, when
        `lockstep`.
    """
    # Every prompt takes as many rows of a batch as it has samples.
    size = max(1, model.batch // settings.num_samples)
    responses: list[list[Ids]] = []
    # The same number of calls on every rank, since each call of a sharded model gathers its weights on all.
    for call in range(math.ceil(at_most / size)):
        chunk = prompts[call * size : (call + 1) * size]
        prompt_ids = [item.ids[: item.prompt_length] for item in chunk]
        # A beam search is deterministic, so it takes no stream; its beams stand in for the samples.
        if settings.search == "beam":
            found = beam_search(model, prompt_ids, settings.num_samples, settings.max_new_tokens)
            responses += [[ids for _, ids in beams] for beams in found]
            continue
        streams = [f"{stream}/{item.id}/{sample}" for item in chunk for sample in range(settings.num_samples)]
        choose = GumbelMax(settings, streams, model.device)
        responses += model.generate(prompt_ids, settings.max_new_tokens, choose, settings.num_samples)
    return responses
