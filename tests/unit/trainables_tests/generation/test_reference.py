from typing import Any

import pytest

from search_spaces.settings.trial_settings import EngineSettings
from tests.support.training.plain_engine import PlainEngine, random_examples, random_llama
from tests.support.training.plain_engine import answer_logps as expected_logps
from trainables.generation.inference import answer_logps, inference

ITEMS = random_examples("item", [(3, 4), (1, 1), (5, 6), (2, 2), (4, 3)], seed=1)


def scored(items, at_most, batch, mode="gathered"):
    engine: Any = PlainEngine(random_llama())
    with inference(engine, EngineSettings(inference=mode, evaluation_batch=batch)) as model:
        return answer_logps(model, items, at_most=at_most), engine.events


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_every_token_of_the_whole_response_is_scored(batch):
    logp, _ = scored(ITEMS, len(ITEMS), batch)
    model = random_llama()
    for item, found in zip(ITEMS, logp, strict=True):
        assert found == pytest.approx(expected_logps(model, item), rel=1e-10)


def test_scoring_makes_as_many_passes_as_the_fullest_rank():
    for items in (ITEMS, ITEMS[:1], ITEMS[:0]):
        logp, events = scored(items, len(ITEMS), 2, "lockstep")
        assert len(logp) == len(items)
        assert events == ["forward"] * 3
