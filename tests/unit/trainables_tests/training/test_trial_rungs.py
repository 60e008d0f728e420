"""What a trial does at its rungs: evaluation, decisions, saved weights."""

import math

import pytest
import torch

from tests.support.training.observed_trials import (
    FOUR,
    KEEP,
    ON,
    STOP,
    STOP_AND_KEEP,
    Witness,
    decide_in_order,
    random_data,
    run,
    settings,
    weights,
)
from tests.support.training.plain_engine import PlainEngine, random_llama
from trainables.events import RungDecision, RungReached, RungTested, TrialFailedError
from trainables.training.rungs import alone
from trainables.training.trial import run_trial


def test_rungs_measure_validation_and_only_the_last_one_the_test_part():
    engine = PlainEngine(random_llama())
    result, witness = run(engine, settings(rungs=4), random_data())
    assert witness.parts == [("validation",)] * 3 + [("validation", "test")]
    rungs = witness.of(RungReached)
    assert [(event.rung, event.rungs, event.step) for event in rungs] == [
        (1, 4, 2),
        (2, 4, 4),
        (3, 4, 6),
        (4, 4, 8),
    ]
    assert [event.metrics["validation/score"] for event in rungs] == [2, 4, 6, 8]
    assert result.metrics == rungs[-1].metrics
    trained = {f"train/{name}" for name in ("loss", "gradient_norm", "guarded_frac", "retain_loss")}
    assert set(result.metrics) == {"validation/score", "test/score", *trained}


def test_kept_rungs_alone_are_measured_on_the_test_part_and_saved():
    result, witness = run(
        PlainEngine(random_llama()), FOUR, random_data(), decide=decide_in_order(ON, KEEP, ON, ON)
    )
    assert witness.parts == [
        ("validation",),
        ("validation",),
        ("test",),
        ("validation",),
        ("validation", "test"),
    ]
    assert witness.of(RungTested) == [RungTested(2, {"test/score": 2})]
    assert list(witness.saved) == [2]
    assert ("test/score" in result.metrics) and result.stopped is None


def test_last_rung_is_saved_where_it_is_kept_and_its_test_part_is_reported_with_the_rest():
    result, witness = run(
        PlainEngine(random_llama()), settings(rungs=2), random_data(), decide=decide_in_order(ON, KEEP)
    )
    assert list(witness.saved) == [2] and witness.of(RungTested) == []
    assert witness.parts == [("validation",), ("validation", "test")]
    assert result.metrics == witness.of(RungReached)[-1].metrics


def test_rung_is_reported_before_its_decision_and_saved_after_the_test_part():
    engine = PlainEngine(random_llama())
    reported = []

    def decide(rung, rungs):
        reported.append(len(witness.of(RungReached)))
        return KEEP

    witness = Witness(engine, {}, decide)
    run_trial(engine, settings(steps=2), random_data(), {}, witness.at_rungs, witness.events.append)
    assert reported == [1, 2]
    at_rungs = [event for event in engine.events if isinstance(event, tuple)]
    assert at_rungs[:4] == [("evaluate", "validation"), ("judge", 1, 2), ("evaluate", "test"), ("save", 1)]
    assert at_rungs[4:] == [("evaluate", "validation", "test"), ("judge", 2, 2), ("save", 2)]


def test_saved_weights_are_those_of_their_rung():
    data = random_data()
    _, whole = run(PlainEngine(random_llama()), FOUR, data, decide=decide_in_order(ON, KEEP, ON, KEEP))
    stopped = PlainEngine(random_llama())
    run(stopped, FOUR, data, decide=decide_in_order(ON, STOP))
    assert torch.equal(whole.saved[2], weights(stopped))
    assert not torch.equal(whole.saved[2], whole.saved[4])


def test_trial_ends_at_the_rung_where_it_is_decided_with_the_reason():
    engine = PlainEngine(random_llama())
    result, witness = run(engine, FOUR, random_data(), decide=decide_in_order(ON, STOP))
    assert result.stopped == "ranks 7 of 9"
    assert len(engine.rates) == len(witness.of(RungReached)) == 2
    assert "test/score" not in result.metrics and witness.saved == {}


def test_trial_that_is_stopped_and_kept_leaves_its_test_part_and_its_weights():
    result, witness = run(
        PlainEngine(random_llama()), FOUR, random_data(), decide=decide_in_order(STOP_AND_KEEP)
    )
    assert result.stopped == "the time is up"
    assert (result.metrics["validation/score"], result.metrics["test/score"]) == (1, 1)
    assert list(witness.saved) == [1]


def test_trial_that_is_stopped_without_a_reason_says_that_it_was():
    result, _ = run(
        PlainEngine(random_llama()), FOUR, random_data(), decide=decide_in_order(RungDecision(go_on=False))
    )
    assert result.stopped == "stopped"


def test_stopping_at_the_last_rung_changes_nothing():
    data = random_data()
    (whole, engine), (stopped_at_end, other) = [
        (run(engine, settings(steps=2), data, decide=decide_in_order(ON, decision))[0], engine)
        for decision, engine in ((ON, PlainEngine(random_llama())), (STOP, PlainEngine(random_llama())))
    ]
    assert stopped_at_end.stopped is None
    assert stopped_at_end.metrics == whole.metrics
    assert other.events == engine.events


def test_rungs_that_are_kept_on_the_way_leave_the_trial_as_it_was():
    data, plain, kept = random_data(), PlainEngine(random_llama()), PlainEngine(random_llama())
    result, _ = run(plain, FOUR, data, decide=decide_in_order(ON, ON, ON, ON))
    other, _ = run(kept, FOUR, data, decide=decide_in_order(KEEP, KEEP, KEEP, KEEP))
    assert other.metrics == result.metrics
    assert torch.equal(weights(kept), weights(plain))


def test_trial_without_a_driver_is_kept_at_its_end_alone():
    result, witness = run(PlainEngine(random_llama()), settings(rungs=3), random_data(), decide=alone())
    assert result.stopped is None and list(witness.saved) == [3]


def test_trial_that_is_to_end_at_a_rung_goes_there_on_the_full_schedules_path():
    whole, cut = PlainEngine(random_llama()), PlainEngine(random_llama())
    trial, data = FOUR, random_data()
    run(whole, trial, data)
    result, witness = run(cut, trial, data, decide=alone(stop_at=2))
    assert cut.rates == whole.rates[:2]
    assert result.stopped == "ended at rung 2 on request"
    assert (result.metrics["validation/score"], result.metrics["test/score"]) == (2, 2)
    assert list(witness.saved) == [2]
    assert run(PlainEngine(random_llama()), trial, data, decide=alone(stop_at=4))[0].stopped is None


def test_more_rungs_than_steps_are_one_at_each_step():
    _, witness = run(PlainEngine(random_llama()), settings(steps=2, rungs=5), random_data())
    assert [(event.rung, event.rungs) for event in witness.of(RungReached)] == [(1, 2), (2, 2)]


def test_metric_that_is_not_finite_fails_the_trial_by_its_name():
    engine = PlainEngine(random_llama())
    with pytest.raises(
        TrialFailedError, match=r"validation/score is nan after step 1; .* raise retain.weight"
    ):
        run(engine, settings(steps=2), random_data(), {"validation/score": math.nan})


def test_test_part_of_a_kept_rung_that_is_not_finite_fails_the_trial_before_anything_is_written():
    engine = PlainEngine(random_llama())
    with pytest.raises(TrialFailedError, match=r"test/score is inf after step 1"):
        run(engine, settings(steps=2), random_data(), {"test/score": math.inf}, decide_in_order(KEEP, ON))
    assert not any(event[0] == "save" for event in engine.events)
