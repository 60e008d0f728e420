"""Preferred answers of preference methods: "I don't know" lines, or samples of the original model."""

import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from search_spaces.settings.forget_settings import PreferredSettings
from search_spaces.settings.trial_settings import SequenceBeliefSettings, TrialSettings
from trainables.benchmarks.encoded_benchmark import EncodedBenchmark
from trainables.data.encoding import Encoded, encode, encode_prompt
from trainables.data.examples import Example
from trainables.engine.zero3_engine import Engine
from trainables.generation.inference import inference
from trainables.generation.sequence_beliefs import Beliefs, sample_responses, share_answers
from trainables.losses.methods import METHODS

UNKNOWING = (
    "I don't know.",
    "I don't know the answer to that.",
    "I'm not sure.",
    "I have no information about that.",
    "That is something I don't know.",
    "I can't answer this question.",
    "I'm afraid I don't know.",
    "I'm not familiar with that.",
    "I have no answer to that.",
    "That's beyond what I know.",
)
"""Built-in lines, used by sweeps without a file of their own."""


def preferred_answers(engine: Engine, data: EncodedBenchmark, trial: TrialSettings) -> Beliefs | None:
    """Draw the preferred answers to every forget prompt, and score them under the original model if needed.

    The draw depends on the seed and the example alone, so the answers do not depend on the number of workers.

    Args:
        engine: Engine of the trial.
        data: The encoded benchmark.
        trial: Settings of the trial; `forget.preferred` says how answers are drawn.

    Returns:
        Answers by example id, equal on every rank; None for methods without preferred answers. Ranks: all.
    """
    method, settings = METHODS[trial.forget.method], trial.forget.preferred
    if method.preferred is None:
        return None
    # Each rank draws and scores its own share, and `share_answers` gathers the rest.
    mine = list(range(engine.rank, len(data.forget), engine.world_size))
    if method.preferred == "unknowing":
        lines = read_lines(settings.answers)
        answers = [
            draw_lines(
                engine.tokenizer, data.benchmark.forget[index], lines, settings.per_example, trial.seed
            )
            for index in mine
        ]
    else:
        answers = _sampled(engine, data, trial, mine)
    at_most = math.ceil(len(data.forget) / engine.world_size) * settings.per_example
    return share_answers(
        engine,
        trial.engine,
        list(chain.from_iterable(answers)),
        at_most=at_most,
        with_reference=method.needs_reference,
    )


def read_lines(path: str | None) -> Sequence[str]:
    """Return the lines of a file that are not empty, or the built-in lines without a file."""
    if path is None:
        return UNKNOWING
    return tuple(
        line.strip()
        for line in Path(path).expanduser().read_text(encoding="utf-8").splitlines()
        if line.strip()
    )


def draw_lines(
    tokenizer: PreTrainedTokenizerBase, example: Example, lines: Sequence[str], count: int, seed: int
) -> list[Encoded]:
    """Draw `count` answers to one prompt from a list; none repeats before all were used."""
    # The example's id seeds the stream, so that the draw is the same on any rank.
    stream = np.random.default_rng([seed % 2**63, *example.id.encode()])
    order = [
        int(index) for _ in range(math.ceil(count / len(lines))) for index in stream.permutation(len(lines))
    ]
    drawn = [encode(tokenizer, example.prompt, lines[index]) for index in order[:count]]
    return [Encoded(example.id, ids, length) for ids, length in drawn]


def _sampled(
    engine: Engine, data: EncodedBenchmark, trial: TrialSettings, mine: Sequence[int]
) -> list[list[Encoded]]:
    """Sample answers of the original model, and append each to its forget prompt. Ranks: all."""
    settings, prompts = trial.forget.preferred, [data.forget[index] for index in mine]
    questions = [
        _question(engine.tokenizer, data.benchmark.forget[index], data.forget[index], settings)
        for index in mine
    ]
    sampling = SequenceBeliefSettings(
        num_samples=settings.per_example,
        temperature=settings.temperature,
        max_new_tokens=settings.max_new_tokens,
    )
    at_most = math.ceil(len(data.forget) / engine.world_size)
    with inference(engine, trial.engine, "pristine") as model:
        sampled = sample_responses(model, questions, sampling, f"preferred/{trial.seed}", at_most=at_most)
    return [
        [Encoded(item.id, (*item.ids[: item.prompt_length], *answer), item.prompt_length) for answer in group]
        for item, group in zip(prompts, sampled, strict=True)
    ]


def _question(
    tokenizer: PreTrainedTokenizerBase, example: Example, encoded: Encoded, settings: PreferredSettings
) -> Encoded:
    """Encode the question to the original model: the forget prompt, or the instruction around it."""
    if settings.instruction is None:
        return encoded
    text = settings.instruction.replace("{prompt}", example.prompt).replace("{response}", example.response)
    # The response is kept behind the prompt only to give the example its form; sampling looks at the prompt.
    prompt = encode_prompt(tokenizer, text)
    return Encoded(example.id, (*prompt, *encoded.answer), len(prompt))
