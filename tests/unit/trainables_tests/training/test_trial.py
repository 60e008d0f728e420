"""The steps of a trial: schedule, beliefs, references, dual variable, ranks."""

import math

import pytest
import torch

from tests.support.training.observed_trials import (
    EMPTY,
    KEEP,
    STOP_AND_KEEP,
    random_data,
    rank_0_knows,
    run,
    settings,
    text_data,
    weights,
)
from tests.support.training.plain_engine import (
    PlainEngine,
    answer_logps,
    random_examples,
    random_llama,
    run_ranks,
)
from trainables.benchmarks.encoded_benchmark import EncodedBenchmark
from trainables.events import LineLogged, RungReached, StepDone, TrialFailedError
from trainables.training import trial as trial_module
from trainables.training.trial_state import PHASES


def test_learning_rate_of_every_step_follows_the_schedule():
    engine = PlainEngine(random_llama())
    run(engine, settings(epochs=3), random_data())
    # 5 examples in batches of 3 are 2 steps an epoch; the first epoch warms up.
    assert engine.rates == pytest.approx([0.5e-2, 1e-2, 1e-2, 0.75e-2, 0.5e-2, 0.25e-2])


def test_steps_take_the_place_of_epochs():
    engine = PlainEngine(random_llama())
    run(engine, settings(steps=3), random_data())
    assert len(engine.rates) == 3


def test_progress_is_reported_at_every_step_and_the_log_has_about_ten_lines():
    _, witness = run(PlainEngine(random_llama()), settings(steps=23, rungs=1), random_data())
    assert [(event.step, event.steps) for event in witness.of(StepDone)] == [
        (step, 23) for step in range(1, 24)
    ]
    assert all(math.isfinite(event.loss) for event in witness.of(StepDone))
    assert 10 <= len(witness.of(LineLogged)) <= 12
    assert witness.of(LineLogged)[0].line.startswith("step 1/23: loss ")


def test_time_is_divided_among_steps_beliefs_and_evaluation(tiny):
    result, _ = run(
        PlainEngine(tiny.model, tiny.tokenizer),
        settings(beliefs="sequence", steps=2),
        text_data(tiny.tokenizer),
    )
    assert set(result.seconds) == set(PHASES)
    assert result.seconds["steps"] > 0 and result.seconds["beliefs"] > 0 and result.seconds["evaluation"] > 0


def test_trial_starts_from_the_pristine_weights():
    data, engine = random_data(), PlainEngine(random_llama())
    first, _ = run(engine, settings(steps=3), data)
    ended, engine.events = weights(engine), []
    assert not torch.equal(ended, weights(PlainEngine(random_llama())))
    second, _ = run(engine, settings(steps=3), data)
    assert engine.events[0] == "reset"
    assert second.metrics["train/loss"] == first.metrics["train/loss"]
    assert torch.equal(weights(engine), ended)


def test_reported_loss_is_that_of_the_global_batch():
    _, witness = run(
        PlainEngine(random_llama()), settings(steps=1, optimizer={"global_batch": 5}), random_data()
    )
    _, cut = run(
        PlainEngine(random_llama()),
        settings(steps=1, optimizer={"global_batch": 5, "micro_batch": 1}),
        random_data(),
    )
    model, data = random_llama(), random_data()
    tokens = sum(len(item.answer) for item in data.forget)
    forget = sum(sum(answer_logps(model, item)) for item in data.forget) / tokens
    # Five partners out of three retain examples: all of them once, two of them twice.
    nll = {item.id: -sum(answer_logps(model, item)) / 10 for item in data.retain}
    pairs = trial_module.global_batch(0, 0, 5, 3, 5)
    expected = forget + sum(nll[data.retain[retain].id] for _, retain in pairs)
    assert witness.of(StepDone)[0].loss == pytest.approx(expected, rel=1e-10)
    assert cut.of(StepDone)[0].loss == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("refresh_epochs", "refreshes_before"),
    [(1.0, [0, 2, 4, 6]), (2.0, [0, 4]), (0.5, list(range(8))), (0.0, [0]), (99.0, [0])],
)
def test_beliefs_are_sampled_anew_at_every_refresh(tiny, monkeypatch, refresh_epochs, refreshes_before):
    seen = []
    sample = trial_module.sample_beliefs

    def watched(engine, *args, **kwargs):
        seen.append((len(engine.rates), kwargs["refresh"], kwargs["with_reference"]))
        return sample(engine, *args, **kwargs)

    monkeypatch.setattr(trial_module, "sample_beliefs", watched)
    trial = settings(beliefs="sequence", sequence_belief={"refresh_epochs": refresh_epochs})
    run(PlainEngine(tiny.model, tiny.tokenizer), trial, text_data(tiny.tokenizer))
    assert seen == [(step, refresh, False) for refresh, step in enumerate(refreshes_before)]


@pytest.mark.parametrize(("method", "wanted"), [("npo", True), ("simnpo", False)])
def test_beliefs_are_scored_under_the_reference_where_the_method_needs_it(tiny, monkeypatch, method, wanted):
    seen = []
    sample = trial_module.sample_beliefs

    def watched(*args, **kwargs):
        seen.append(kwargs["with_reference"])
        return sample(*args, **kwargs)

    monkeypatch.setattr(trial_module, "sample_beliefs", watched)
    run(
        PlainEngine(tiny.model, tiny.tokenizer),
        settings(beliefs="sequence", forget={"method": method}, steps=1),
        text_data(tiny.tokenizer),
    )
    assert seen == [wanted]


def test_no_beliefs_are_sampled_by_default(monkeypatch):
    calls = []
    monkeypatch.setattr(trial_module, "sample_beliefs", lambda *args, **kwargs: calls.append(args))
    run(PlainEngine(random_llama()), settings(beliefs="token"), random_data())
    assert calls == []


def test_reference_states_are_computed_for_kl_retain_and_whole_rows_of_logits_alone():
    for retain, method, wanted in [
        ("kl", "graddiff", True),
        ("nll", "graddiff", False),
        ("kl", "ga", False),
        ("nll", "undial", True),
    ]:
        engine = PlainEngine(random_llama())
        run(engine, settings(retain={"loss": retain}, forget={"method": method}, steps=1), random_data())
        assert ("reference" in engine.events) == wanted


def test_guarded_share_counts_belief_rows_alone():
    data = EncodedBenchmark(EMPTY, random_data().forget, random_examples("retain", [(2, 9)] * 3, seed=2))
    # With a share of one and the target left out, every row falls short of the policy at its target.
    trial = settings(beliefs="token", token_belief={"weight": 1.0, "exclude_target": True}, steps=1)
    for beliefs, expected in [("token", 1.0), ("none", 0.0)]:
        result, _ = run(
            PlainEngine(random_llama(sharpness=5.0)), trial.model_copy(update={"beliefs": beliefs}), data
        )
        assert result.metrics["train/guarded_frac"] == expected


def test_dual_variable_rises_while_the_retain_loss_is_larger_than_allowed_and_never_falls_below_zero():
    forget = {"method": "pdu", "dual": {"step": 0.5, "allowed_nats": 0.1}}
    result, witness = run(
        PlainEngine(random_llama()),
        settings(steps=3, rungs=3, forget=forget, retain={"weight": 2.0}),
        random_data(),
    )
    reported = [event.metrics for event in witness.of(RungReached)]
    expected = 2.0
    for metrics in reported:
        assert metrics["train/retain_weight"] == pytest.approx(expected, rel=1e-12)
        expected += 0.5 * (metrics["train/retain_loss"] - 0.1)
    forget["dual"] = {"step": 1000.0, "allowed_nats": 1e6}
    result, _ = run(PlainEngine(random_llama()), settings(steps=3, rungs=3, forget=forget), random_data())
    assert result.metrics["train/retain_weight"] == 0.0


def test_dual_variable_waits_for_its_warm_up():
    forget = {"method": "pdu", "dual": {"warmup_epochs": 1.0}}
    _, witness = run(PlainEngine(random_llama()), settings(steps=4, rungs=4, forget=forget), random_data())
    first, second, third, fourth = (event.metrics["train/retain_weight"] for event in witness.of(RungReached))
    assert first == second == third == 1.0 != fourth


def test_loss_that_is_not_finite_fails_the_trial_with_what_to_change():
    engine = PlainEngine(random_llama())
    with pytest.raises(
        TrialFailedError,
        match=r"loss is (nan|-?inf) after step \d+; lower optimizer.learning_rate or forget.weight",
    ):
        run(engine, settings(optimizer={"learning_rate": 1e300, "warmup_epochs": 0}), random_data())


def test_lane_works_on_after_a_failed_trial():
    engine = PlainEngine(random_llama())
    with pytest.raises(TrialFailedError):
        run(engine, settings(optimizer={"learning_rate": 1e300, "warmup_epochs": 0}), random_data())
    run(engine, settings(steps=3), random_data())
    fresh = PlainEngine(random_llama())
    run(fresh, settings(steps=3), random_data())
    assert torch.equal(weights(engine), weights(fresh))


@pytest.mark.parametrize(
    ("world_size", "changes"),
    [
        (3, {"forget": {"method": "npo"}, "beliefs": "token+sequence"}),
        (2, {"forget": {"method": "wga"}, "beliefs": "sequence", "engine": {"inference": "lockstep"}}),
        (2, {"forget": {"method": "simnpo"}, "beliefs": "token", "retain": {"loss": "kl"}}),
        (4, {"forget": {"method": "ga"}}),
    ],
)
def test_results_do_not_depend_on_ranks_or_micro_batches(tiny, world_size, changes):
    data = text_data(tiny.tokenizer)

    def work(micro_batch):
        trial = settings(
            **changes, epochs=2, rungs=3, optimizer={"micro_batch": micro_batch, "learning_rate": 1e-3}
        )
        return lambda engine: run(engine, trial, data, decide=rank_0_knows(engine, KEEP, STOP_AND_KEEP))

    ((alone, witness),), (engine,) = run_ranks(tiny.model, 1, work(4), tiny.tokenizer)
    results, engines = run_ranks(tiny.model, world_size, work(1), tiny.tokenizer)
    for (result, other), other_engine in zip(results, engines, strict=True):
        assert result.metrics == pytest.approx(alone.metrics, rel=1e-7)
        torch.testing.assert_close(weights(other_engine), weights(engine), rtol=1e-7, atol=1e-9)
        assert result.stopped == "the time is up"
        assert other_engine.events == engines[0].events
        assert len(other.events) == (len(witness.events) if other_engine.rank == 0 else 0)
    assert not torch.allclose(weights(engine), weights(PlainEngine(tiny.model)), rtol=1e-4, atol=1e-5)
