"""The contract of every method: what holds for one trial holds for each of them. A new method is covered by
being registered."""

import pytest
import torch

from search_spaces.catalogue.method_catalogue import METHODS as CATALOGUE
from tests.support.training.observed_trials import run, text_data, trial_of, weights
from tests.support.training.plain_engine import PlainEngine, run_ranks
from trainables.losses.methods import METHODS

BELIEFS = ["none", "sequence", "token+sequence"]
KINDS = [
    (name, beliefs)
    for name in METHODS
    for beliefs in BELIEFS
    if CATALOGUE[name].token_beliefs or "token" not in beliefs
]


@pytest.mark.parametrize(("method", "beliefs"), KINDS)
def test_results_do_not_depend_on_ranks_or_micro_batches(tiny, method, beliefs):
    data = text_data(tiny.tokenizer)

    def work(micro_batch):
        return lambda engine: run(
            engine, trial_of(method, beliefs, optimizer={"micro_batch": micro_batch}), data
        )

    ((alone, _),), (engine,) = run_ranks(tiny.model, 1, work(4), tiny.tokenizer)
    results, engines = run_ranks(tiny.model, 3, work(1), tiny.tokenizer)
    for (result, _), other in zip(results, engines, strict=True):
        assert result.metrics == pytest.approx(alone.metrics, rel=1e-7)
        torch.testing.assert_close(weights(other), weights(engine), rtol=1e-7, atol=1e-9)
        assert other.events == engines[0].events
    assert not torch.allclose(weights(engine), weights(PlainEngine(tiny.model)), rtol=1e-4, atol=1e-5)


def test_second_order_steps_do_not_depend_on_ranks(tiny):
    data, second = text_data(tiny.tokenizer), {"method": "second_order", "rho": 10.0}

    def work(micro_batch):
        trial = trial_of("npo", "token", optimizer={"micro_batch": micro_batch, **second})
        return lambda engine: run(engine, trial, data)

    ((alone, _),), (engine,) = run_ranks(tiny.model, 1, work(4), tiny.tokenizer)
    ((result, _), _), (other, _) = run_ranks(tiny.model, 2, work(1), tiny.tokenizer)
    assert result.metrics == pytest.approx(alone.metrics, rel=1e-6)
    torch.testing.assert_close(weights(other), weights(engine), rtol=1e-6, atol=1e-8)
    first_order = PlainEngine(tiny.model, tiny.tokenizer)
    run(first_order, trial_of("npo", "token"), data)
    assert not torch.allclose(weights(first_order), weights(engine), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_lock_step_gives_the_same(tiny, method):
    data, trial = text_data(tiny.tokenizer), trial_of(method, "sequence")
    gathered, lockstep = PlainEngine(tiny.model, tiny.tokenizer), PlainEngine(tiny.model, tiny.tokenizer)
    run(gathered, trial, data)
    run(
        lockstep,
        trial.model_copy(update={"engine": trial.engine.model_copy(update={"inference": "lockstep"})}),
        data,
    )
    torch.testing.assert_close(weights(lockstep), weights(gathered), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_warm_equals_cold_bit_for_bit(tiny, method):
    data = text_data(tiny.tokenizer)
    warm, cold = PlainEngine(tiny.model, tiny.tokenizer), PlainEngine(tiny.model, tiny.tokenizer)
    run(warm, trial_of("npo", "token+sequence", seed=3), data)
    run(warm, trial_of("pdu", "none", seed=4), data)
    results = [run(engine, trial_of(method, "none"), data)[0].metrics for engine in (warm, cold)]
    assert (
        len(
            {
                tuple(value for name, value in metrics.items() if name.startswith("train/"))
                for metrics in results
            }
        )
        == 1
    )
    assert torch.equal(weights(warm), weights(cold))
