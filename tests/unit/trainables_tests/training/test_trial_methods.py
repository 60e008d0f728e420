"""The contract of every method: what holds for one trial holds for each of them. A new method is covered by
being registered."""

import pytest
import torch

from search_spaces.catalogue.method_catalogue import METHODS as CATALOGUE
from tests.support.training.observed_trials import run, text_data, trial_of, weights
from tests.support.training.plain_engine import PlainEngine, run_ranks
from trainables.losses.methods import METHODS


def fullest(method):
    """All kinds of beliefs that a method takes, together."""
    return "token+sequence" if CATALOGUE[method].token_beliefs else "sequence"


FULLEST = [(name, fullest(name)) for name in METHODS]
OTHERS = [
    pytest.param(name, beliefs, marks=[] if name in ("npo", "dpo") else pytest.mark.soak)
    for name in METHODS
    for beliefs in ("none", "sequence")
    if beliefs != fullest(name)
]


def alone_and_on_ranks(tiny, method, beliefs, world_size, **changes):
    """A trial by one rank, and by several with smaller micro-batches: they must agree."""
    data = text_data(tiny.tokenizer)

    def work(micro_batch, **more):
        trial = trial_of(method, beliefs, optimizer={"micro_batch": micro_batch}, **more)
        return lambda engine: run(engine, trial, data)

    ((alone, _),), (engine,) = run_ranks(tiny.model, 1, work(4), tiny.tokenizer)
    results, engines = run_ranks(tiny.model, world_size, work(1, **changes), tiny.tokenizer)
    for (result, _), other in zip(results, engines, strict=True):
        assert result.metrics == pytest.approx(alone.metrics, rel=1e-7)
        torch.testing.assert_close(weights(other), weights(engine), rtol=1e-7, atol=1e-9)
        assert other.events == engines[0].events
    assert not torch.allclose(weights(engine), weights(PlainEngine(tiny.model)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("method", "beliefs"), FULLEST)
def test_ranks_in_lock_step_with_small_micro_batches_agree_with_one_rank(tiny, method, beliefs):
    alone_and_on_ranks(tiny, method, beliefs, 2, engine={"inference": "lockstep"})


@pytest.mark.parametrize(("method", "beliefs"), OTHERS)
def test_results_do_not_depend_on_ranks_or_micro_batches(tiny, method, beliefs):
    alone_and_on_ranks(tiny, method, beliefs, 3)


@pytest.mark.soak
@pytest.mark.parametrize(("method", "beliefs"), FULLEST)
def test_three_ranks_agree_with_one(tiny, method, beliefs):
    alone_and_on_ranks(tiny, method, beliefs, 3)


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


@pytest.mark.parametrize("method", [pytest.param(name, marks=pytest.mark.soak) for name in METHODS])
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


def train_metrics(result):
    return {name: value for name, value in result.metrics.items() if name.startswith("train/")}


def test_warm_equals_cold_bit_for_bit(tiny):
    """One engine has run every method before the next, besides beliefs and a dual variable."""
    data = text_data(tiny.tokenizer)
    warm = PlainEngine(tiny.model, tiny.tokenizer)
    run(warm, trial_of("npo", "token+sequence", seed=3), data)
    run(warm, trial_of("pdu", "none", seed=4), data)
    for method in METHODS:
        cold = PlainEngine(tiny.model, tiny.tokenizer)
        in_lane, fresh = (run(engine, trial_of(method, "none", epochs=1), data)[0] for engine in (warm, cold))
        assert train_metrics(in_lane) == train_metrics(fresh), method
        assert torch.equal(weights(warm), weights(cold)), method


@pytest.mark.soak
@pytest.mark.parametrize("method", METHODS)
def test_warm_equals_cold_after_beliefs_and_a_dual_variable(tiny, method):
    data = text_data(tiny.tokenizer)
    warm, cold = PlainEngine(tiny.model, tiny.tokenizer), PlainEngine(tiny.model, tiny.tokenizer)
    run(warm, trial_of("npo", "token+sequence", seed=3), data)
    run(warm, trial_of("pdu", "none", seed=4), data)
    in_lane, fresh = (run(engine, trial_of(method, "none"), data)[0] for engine in (warm, cold))
    assert train_metrics(in_lane) == train_metrics(fresh)
    assert torch.equal(weights(warm), weights(cold))
