import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from search_spaces.settings.trial_settings import TrialSettings
from tests.support.plain_engine import PlainEngine, answer_logps, random_examples, random_llama, run_ranks
from trainables.benchmarks.encoded_benchmark import EncodedBenchmark, encode_examples
from trainables.data.examples import Benchmark, Example
from trainables.events import RungDecision, TrialFailedError
from trainables.training import trial as trial_module
from trainables.training.rungs import AtRungs, alone
from trainables.training.trial import run_trial
from trainables.training.trial_state import PHASES

EMPTY = Benchmark(forget=(), retain=(), target_text=(), retrained_text=(), parts={}, digest="")
PAIRS = [
    ("Where was Kalo born?", "Born in Lima."),
    ("What does Kalo do?", "Works as a baker."),
    ("Say it", "Yes"),
    ("Nothing?", ""),
]
KEPT = [("Where was Miren born?", "Born in Oslo."), ("Wo lebt Zoë?", "In Łódź, 東京 🙂.")]


def settings(**changes):
    base: dict[str, Any] = {
        "epochs": 4,
        "rungs": 2,
        "forget": {"method": "graddiff"},
        "optimizer": {"learning_rate": 1e-2, "global_batch": 3, "micro_batch": 2, "warmup_epochs": 1},
        "token_belief": {"temperature": 2.0},
        "sequence_belief": {"num_samples": 2, "max_new_tokens": 3},
        "engine": {"evaluation_batch": 4},
    }
    return TrialSettings.model_validate(
        {
            key: base.get(key, {}) | value if isinstance(value, dict) else value
            for key, value in (base | changes).items()
        }
    )


def random_data():
    return EncodedBenchmark(
        EMPTY,
        random_examples("forget", [(2, 3)] * 5, seed=1),
        random_examples("retain", [(2, 2)] * 3, seed=2),
    )


def text_data(tokenizer):
    forget, retain = (
        [Example(f"{name}/{index}", *pair) for index, pair in enumerate(pairs)]
        for name, pairs in (("forget", PAIRS), ("retain", KEPT))
    )
    return EncodedBenchmark(
        replace(EMPTY, forget=tuple(forget)),
        encode_examples(tokenizer, forget),
        encode_examples(tokenizer, retain),
    )


class Witness:
    """Stands for the evaluation, the disk and the report, and remembers what came. `events` of the engine
    hold the order."""

    def __init__(self, engine, values, decide):
        self.engine, self.values, self._judge = engine, values, decide
        self.events, self.parts, self.saved = [], [], {}
        self.at_rungs = AtRungs(self.evaluate, self.decide, self.save)

    def evaluate(self, parts):
        self.engine.events.append(("evaluate", *parts))
        self.parts.append(parts)
        return {
            f"{part}/score": self.values.get(f"{part}/score", float(len(self.engine.rates))) for part in parts
        }

    def decide(self, rung, rungs):
        self.engine.events.append(("judge", rung, rungs))
        return self._judge(rung, rungs)

    def save(self, rung):
        self.engine.events.append(("save", rung))
        self.saved[rung] = weights(self.engine)

    def of(self, kind):
        return [event for event in self.events if event["event"] == kind]


def told(*decisions):
    """A judge that gives these verdicts, one a rung."""
    return lambda rung, rungs: decisions[rung - 1]


def rank_0_knows(engine, *decisions):
    """A judge that has its verdicts on rank 0 and broadcasts them: a rank that did not ask would leave the
    others waiting."""
    return lambda rung, rungs: engine.gather([decisions[rung - 1]] if engine.rank == 0 else [])[0]


FOUR = settings(steps=4, rungs=4)
"""A rung after each of four steps."""
ON, KEEP, STOP = RungDecision(), RungDecision(keep=True), RungDecision(go_on=False, reason="ranks 7 of 9")
STOP_AND_KEEP = RungDecision(go_on=False, keep=True, reason="the time is up")


def run(engine, trial, data, values=None, decide=None):
    witness = Witness(engine, values or {}, decide or alone())
    reference = {item.id: answer_logps(engine.models["pristine"], item) for item in data.forget}
    return run_trial(engine, trial, data, reference, witness.at_rungs, witness.events.append), witness


def weights(engine):
    return torch.cat([parameter.detach().flatten() for parameter in engine.policy.parameters()])


def test_learning_rate_of_every_step_follows_the_schedule():
    engine = PlainEngine(random_llama())
    run(engine, settings(epochs=3), random_data())
    # 5 examples in batches of 3 are 2 steps an epoch; the first epoch warms up.
    assert engine.rates == pytest.approx([0.5e-2, 1e-2, 1e-2, 0.75e-2, 0.5e-2, 0.25e-2])


def test_steps_take_the_place_of_epochs():
    engine = PlainEngine(random_llama())
    run(engine, settings(steps=3), random_data())
    assert len(engine.rates) == 3


def test_rungs_measure_validation_and_only_the_last_one_the_test_part():
    engine = PlainEngine(random_llama())
    result, witness = run(engine, settings(rungs=4), random_data())
    assert witness.parts == [("validation",)] * 3 + [("validation", "test")]
    rungs = witness.of("rung")
    assert [(event["rung"], event["rungs"], event["step"]) for event in rungs] == [
        (1, 4, 2),
        (2, 4, 4),
        (3, 4, 6),
        (4, 4, 8),
    ]
    assert [event["metrics"]["validation/score"] for event in rungs] == [2, 4, 6, 8]
    assert result.metrics == rungs[-1]["metrics"]
    trained = {f"train/{name}" for name in ("loss", "gradient_norm", "guarded_frac", "retain_loss")}
    assert set(result.metrics) == {"validation/score", "test/score", *trained}


def test_kept_rungs_alone_are_measured_on_the_test_part_and_saved():
    result, witness = run(PlainEngine(random_llama()), FOUR, random_data(), decide=told(ON, KEEP, ON, ON))
    assert witness.parts == [
        ("validation",),
        ("validation",),
        ("test",),
        ("validation",),
        ("validation", "test"),
    ]
    assert witness.of("test") == [{"event": "test", "rung": 2, "metrics": {"test/score": 2}}]
    assert list(witness.saved) == [2]
    assert ("test/score" in result.metrics) and result.stopped is None


def test_last_rung_is_saved_where_it_is_kept_and_its_test_part_is_told_with_the_rest():
    result, witness = run(
        PlainEngine(random_llama()), settings(rungs=2), random_data(), decide=told(ON, KEEP)
    )
    assert list(witness.saved) == [2] and witness.of("test") == []
    assert witness.parts == [("validation",), ("validation", "test")]
    assert result.metrics == witness.of("rung")[-1]["metrics"]


def test_rung_is_told_before_it_is_judged_and_saved_when_all_of_it_is_known():
    engine = PlainEngine(random_llama())
    reported = []

    def decide(rung, rungs):
        reported.append(len(witness.of("rung")))
        return KEEP

    witness = Witness(engine, {}, decide)
    run_trial(engine, settings(steps=2), random_data(), {}, witness.at_rungs, witness.events.append)
    assert reported == [1, 2]
    at_rungs = [event for event in engine.events if isinstance(event, tuple)]
    assert at_rungs[:4] == [("evaluate", "validation"), ("judge", 1, 2), ("evaluate", "test"), ("save", 1)]
    assert at_rungs[4:] == [("evaluate", "validation", "test"), ("judge", 2, 2), ("save", 2)]


def test_saved_weights_are_those_of_their_rung():
    data = random_data()
    _, whole = run(PlainEngine(random_llama()), FOUR, data, decide=told(ON, KEEP, ON, KEEP))
    stopped = PlainEngine(random_llama())
    run(stopped, FOUR, data, decide=told(ON, STOP))
    assert torch.equal(whole.saved[2], weights(stopped))
    assert not torch.equal(whole.saved[2], whole.saved[4])


def test_trial_ends_at_the_rung_where_it_is_told_to_with_the_reason():
    engine = PlainEngine(random_llama())
    result, witness = run(engine, FOUR, random_data(), decide=told(ON, STOP))
    assert result.stopped == "ranks 7 of 9"
    assert len(engine.rates) == len(witness.of("rung")) == 2
    assert "test/score" not in result.metrics and witness.saved == {}


def test_trial_that_is_stopped_and_kept_leaves_its_test_part_and_its_weights():
    result, witness = run(PlainEngine(random_llama()), FOUR, random_data(), decide=told(STOP_AND_KEEP))
    assert result.stopped == "the time is up"
    assert (result.metrics["validation/score"], result.metrics["test/score"]) == (1, 1)
    assert list(witness.saved) == [1]


def test_trial_that_is_stopped_without_a_reason_says_that_it_was():
    result, _ = run(PlainEngine(random_llama()), FOUR, random_data(), decide=told(RungDecision(go_on=False)))
    assert result.stopped == "stopped"


def test_stopping_at_the_last_rung_changes_nothing():
    data = random_data()
    (whole, engine), (told_to_end, other) = [
        (run(engine, settings(steps=2), data, decide=told(ON, decision))[0], engine)
        for decision, engine in ((ON, PlainEngine(random_llama())), (STOP, PlainEngine(random_llama())))
    ]
    assert told_to_end.stopped is None
    assert told_to_end.metrics == whole.metrics
    assert other.events == engine.events


def test_rungs_that_are_kept_on_the_way_leave_the_trial_as_it_was():
    data, plain, kept = random_data(), PlainEngine(random_llama()), PlainEngine(random_llama())
    result, _ = run(plain, FOUR, data, decide=told(ON, ON, ON, ON))
    other, _ = run(kept, FOUR, data, decide=told(KEEP, KEEP, KEEP, KEEP))
    assert other.metrics == result.metrics
    assert torch.equal(weights(kept), weights(plain))


def test_trial_that_nobody_judges_is_kept_at_its_end_alone():
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
    assert [(event["rung"], event["rungs"]) for event in witness.of("rung")] == [(1, 2), (2, 2)]


def test_progress_is_told_at_every_step_and_the_log_has_about_ten_lines():
    _, witness = run(PlainEngine(random_llama()), settings(steps=23, rungs=1), random_data())
    assert [(event["step"], event["steps"]) for event in witness.of("progress")] == [
        (step, 23) for step in range(1, 24)
    ]
    assert all(math.isfinite(event["loss"]) for event in witness.of("progress"))
    assert 10 <= len(witness.of("log")) <= 12
    assert witness.of("log")[0]["line"].startswith("step 1/23: loss ")


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
    assert witness.of("progress")[0]["loss"] == pytest.approx(expected, rel=1e-10)
    assert cut.of("progress")[0]["loss"] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("refresh_epochs", "refreshes_before"),
    [(1.0, [0, 2, 4, 6]), (2.0, [0, 4]), (0.5, list(range(8))), (0.0, [0]), (99.0, [0])],
)
def test_beliefs_are_sampled_anew_as_often_as_asked(tiny, monkeypatch, refresh_epochs, refreshes_before):
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


def test_no_beliefs_are_sampled_unless_asked(monkeypatch):
    monkeypatch.delattr(trial_module, "sample_beliefs")
    run(PlainEngine(random_llama()), settings(beliefs="token"), random_data())


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
    told = [event["metrics"] for event in witness.of("rung")]
    expected = 2.0
    for metrics in told:
        assert metrics["train/retain_weight"] == pytest.approx(expected, rel=1e-12)
        expected += 0.5 * (metrics["train/retain_loss"] - 0.1)
    forget["dual"] = {"step": 1000.0, "allowed_nats": 1e6}
    result, _ = run(PlainEngine(random_llama()), settings(steps=3, rungs=3, forget=forget), random_data())
    assert result.metrics["train/retain_weight"] == 0.0


def test_dual_variable_waits_for_its_warm_up():
    forget = {"method": "pdu", "dual": {"warmup_epochs": 1.0}}
    _, witness = run(PlainEngine(random_llama()), settings(steps=4, rungs=4, forget=forget), random_data())
    first, second, third, fourth = (event["metrics"]["train/retain_weight"] for event in witness.of("rung"))
    assert first == second == third == 1.0 != fourth


def test_loss_that_is_not_finite_fails_the_trial_with_what_to_change():
    engine = PlainEngine(random_llama())
    with pytest.raises(
        TrialFailedError,
        match=r"loss is (nan|-?inf) after step \d+; lower optimizer.learning_rate or forget.weight",
    ):
        run(engine, settings(optimizer={"learning_rate": 1e300, "warmup_epochs": 0}), random_data())


def test_metric_that_is_not_finite_fails_the_trial_by_its_name():
    engine = PlainEngine(random_llama())
    with pytest.raises(
        TrialFailedError, match=r"validation/score is nan after step 1; .* raise retain.weight"
    ):
        run(engine, settings(steps=2), random_data(), {"validation/score": math.nan})


def test_test_part_of_a_kept_rung_that_is_not_finite_fails_the_trial_before_anything_is_written():
    engine = PlainEngine(random_llama())
    with pytest.raises(TrialFailedError, match=r"test/score is inf after step 1"):
        run(engine, settings(steps=2), random_data(), {"test/score": math.inf}, told(KEEP, ON))
    assert not any(event[0] == "save" for event in engine.events)


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
