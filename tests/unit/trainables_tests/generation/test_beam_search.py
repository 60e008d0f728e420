from functools import cache
from typing import Any

import pytest
import torch

from search_spaces.settings.trial_settings import EngineSettings, SequenceBeliefSettings
from tests.support.training.enumerated_answers import END, VOCABULARY, all_answers
from tests.support.training.plain_engine import PlainEngine, random_examples, random_llama, run_ranks
from trainables.generation.beam_search import beam_search
from trainables.generation.inference import inference
from trainables.generation.sequence_beliefs import sample_beliefs

PROMPTS = [(3, 1, 4), (2,), (5, 6, 5, 1, 3)]


class Tokenizer:
    chat_template, eos_token_id, pad_token_id = None, END, 0


@cache
def model_of(sharpness=6.0):
    return random_llama(3, vocabulary=VOCABULARY, sharpness=sharpness)


def searched(model, beams, length, prompts=PROMPTS, mode="gathered"):
    engine: Any = PlainEngine(model, Tokenizer())
    with inference(engine, EngineSettings(inference=mode)) as opened:
        return beam_search(opened, prompts, beams, length)


@cache
def next_logps(model, ids):
    """Log-probability of every token after a beginning, without the product's cache of keys and values."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(-1).tolist()


def logp_of(model, prompt, answer):
    """Log-probability of one answer."""
    return sum(next_logps(model, prompt + answer[:end])[token] for end, token in enumerate(answer))


def slow_beams(model, prompt, beams, length):
    """The textbook's beam search: one prompt, no cache, every candidate scored from its start."""
    live, ended = [()], []
    for _ in range(length):
        candidates = sorted(
            ((*ids, token) for ids in live for token in range(VOCABULARY)),
            key=lambda ids: -logp_of(model, prompt, ids),
        )
        ended += [ids for ids in candidates[:beams] if ids[-1] == END]
        live = [ids for ids in candidates if ids[-1] != END][:beams]
    return sorted(ended + live, key=lambda ids: -logp_of(model, prompt, ids))[:beams]


@pytest.mark.parametrize("mode", ["gathered", "lockstep"])
def test_as_many_beams_as_there_are_answers_find_the_most_likely_ones_of_all(mode):
    model = model_of()
    for prompt, found in zip(PROMPTS, searched(model, 300, 3, mode=mode), strict=True):
        expected = sorted(all_answers(3), key=lambda ids: -logp_of(model, prompt, ids))[:300]
        assert [ids for _, ids in found[:50]] == expected[:50]
        assert len(found) == len(set(ids for _, ids in found)) == len(list(all_answers(3))[:300])


@pytest.mark.parametrize("beams", [1, 2, 5])
@pytest.mark.parametrize("sharpness", [2.0, 12.0])
def test_beams_are_those_of_a_slow_search_and_carry_their_log_probability(beams, sharpness):
    model = model_of(sharpness)
    for prompt, found in zip(PROMPTS, searched(model, beams, 5), strict=True):
        assert [ids for _, ids in found] == slow_beams(model, prompt, beams, 5)
        assert [score for score, _ in found] == pytest.approx(
            [logp_of(model, prompt, ids) for _, ids in found], rel=1e-6
        )


def test_one_beam_is_the_greedy_answer():
    model = model_of()
    engine: Any = PlainEngine(model, Tokenizer())
    with inference(engine, EngineSettings()) as opened:
        greedy = opened.generate(PROMPTS, 4)
    assert [[ids for _, ids in found] for found in searched(model, 1, 4)] == greedy


def test_ranks_with_fewer_or_no_prompts_keep_step():
    def work(engine):
        mine = PROMPTS[engine.rank :: engine.world_size] if engine.rank < 2 else []
        with inference(engine, EngineSettings(inference="lockstep")) as opened:
            return beam_search(opened, mine, 3, 6)

    results, engines = run_ranks(model_of(), 3, work, Tokenizer())
    alone = searched(model_of(), 3, 6)
    assert [[ids for _, ids in found] for found in results[0] + results[1]] == [
        [ids for _, ids in found] for found in alone[:2]
    ]
    assert results[2] == [] and len({len(engine.events) for engine in engines}) == 1


def test_beliefs_may_be_searched_for_in_place_of_drawn():
    forget = random_examples("forget", [(3, 2), (1, 2), (4, 1)], seed=1, vocabulary=VOCABULARY)
    settings = SequenceBeliefSettings(search="beam", num_samples=2, max_new_tokens=4)
    engine: Any = PlainEngine(model_of(), Tokenizer())
    stores = [
        sample_beliefs(engine, forget, settings, EngineSettings(), seed=seed, refresh=0, with_reference=True)
        for seed in (0, 1)
    ]
    assert stores[0] == stores[1], "no chance is left"
    prompts = [item.ids[: item.prompt_length] for item in forget]
    for item, found in zip(forget, searched(model_of(), 2, 4, prompts), strict=True):
        assert [belief.encoded.answer for belief in stores[0][item.id]] == [ids for _, ids in found]
        assert [sum(belief.reference_logp_nats or ()) for belief in stores[0][item.id]] == pytest.approx(
            [score for score, _ in found]
        )
