"""Counts, coefficients and order of packed micro-batches."""

from dataclasses import replace

import pytest

from tests.support.training.dense_batches import FORGET, PAIRS, RETAIN, packed_batches, settings, world
from tests.support.training.plain_engine import (
    PlainEngine,
)
from trainables.training.batch_packing import PackedBatches, answer_tokens


def test_gradient_ascent_has_no_retain_term_whatever_the_settings_say():
    for retain in ("nll", "kl"):
        parts = packed_batches(settings("ga", retain=retain))
        assert parts.retain_kind is None
        batch, plan = parts.micro_batch(PAIRS, PAIRS)
        assert [term.kind for term in plan.terms] == ["forget"]
        assert batch.num_sequences == len(PAIRS)


def test_missing_retain_partners_are_left_out():
    trial = settings("graddiff")
    parts = PackedBatches(trial, FORGET, [], {})
    assert parts.retain_kind is None
    assert [term.kind for term in parts.micro_batch([(0, -1)], [(0, -1)])[1].terms] == ["forget"]


def test_coefficients_divide_by_the_global_count_of_the_unit_of_each_method():
    _, _, _, store, _ = world()
    beliefs = [belief.encoded for forget, _ in PAIRS for belief in store[FORGET[forget].id]]
    retain = 1.3 / answer_tokens([RETAIN[index] for _, index in PAIRS])
    counts = {
        "graddiff": (answer_tokens([FORGET[forget] for forget, _ in PAIRS]), answer_tokens(beliefs)),
        "npo": (len(PAIRS), len(beliefs)),
        "ceu": (
            answer_tokens([FORGET[forget] for forget, _ in PAIRS]) - len(PAIRS),
            answer_tokens(beliefs) - len(beliefs),
        ),
    }
    for method, (targets, samples) in counts.items():
        _, plan = packed_batches(settings(method, "sequence")).micro_batch(PAIRS[:1], PAIRS)
        assert [term.coefficient for term in plan.terms] == pytest.approx(
            [0.7 * 0.6 / targets, 0.7 * 0.4 / samples, retain], rel=1e-14
        )


def test_an_empty_micro_batch_has_every_term_without_rows_and_gradients_of_zero():
    trial = settings("npo", "token+sequence")
    batch, plan = packed_batches(trial).micro_batch([], PAIRS)
    assert [(term.kind, term.rows) for term in plan.terms] == [
        (kind, slice(0, 0)) for kind in ("forget", "forget", "nll")
    ]
    engine = PlainEngine(world()[0])
    assert float(engine.backward(batch, plan).loss.detach()) == 0
    assert all(
        parameter.grad is not None and not parameter.grad.any() for parameter in engine.policy.parameters()
    )


def test_a_global_batch_without_pairs_divides_by_nothing():
    _, plan = packed_batches(settings("graddiff", "sequence")).micro_batch([], [])
    assert all(term.coefficient < float("inf") for term in plan.terms)


def test_references_and_partners_are_those_of_the_packed_responses():
    _, plan = packed_batches(settings("dpo", "sequence")).micro_batch(PAIRS[:2], PAIRS)
    _, _, reference, beliefs, preferred = world()
    targets, samples, answers, retain = plan.terms
    assert targets.reference_logp_N.tolist() == [*reference["forget/4"], *reference["forget/0"]]
    drawn = [beliefs[f"forget/{index}"] for index in ("4", "0")]
    assert samples.reference_logp_N.tolist() == [
        value for group in drawn for belief in group for value in belief.reference_logp_nats
    ]
    assert answers.reference_logp_N.tolist() == [
        value for index in ("4", "0") for value in preferred[f"forget/{index}"][0].reference_logp_nats
    ]
    assert (targets.partner_S.tolist(), samples.partner_S.tolist()) == (
        [0, 1],
        [0] * len(drawn[0]) + [1] * len(drawn[1]),
    )
    assert (retain.reference_logp_N, retain.partner_S) == (None, None)


def test_moved_retain_weight_takes_the_place_of_the_fixed_one():
    parts = packed_batches(settings("pdu"))
    fixed, moved = (
        other.micro_batch(PAIRS, PAIRS)[1].terms[-1].coefficient
        for other in (parts, replace(parts, retain_weight=5.0))
    )
    assert moved == pytest.approx(fixed * 5.0 / 1.3)


def test_token_beliefs_are_in_the_plan_only_where_set():
    assert packed_batches(settings("npo", "sequence")).micro_batch(PAIRS, PAIRS)[1].token_belief is None
    trial = settings("npo", "token")
    assert packed_batches(trial).micro_batch(PAIRS, PAIRS)[1].token_belief == trial.token_belief


def test_answer_tokens_counts_answers_without_prompts():
    assert answer_tokens(FORGET) == 4 + 1 + 6 + 2 + 3 + 2
    assert answer_tokens([]) == 0


def test_neighbours_are_alike_in_length_and_no_pair_is_lost():
    packed_batches = PackedBatches(settings(), FORGET, RETAIN, {})
    ordered = packed_batches.longest_first([*PAIRS, (5, -1)])
    lengths = [
        max(len(FORGET[forget].ids), len(RETAIN[retain].ids) if retain >= 0 else 0)
        for forget, retain in ordered
    ]
    assert sorted(ordered) == sorted([*PAIRS, (5, -1)]) and lengths == sorted(lengths, reverse=True)
    assert packed_batches.longest_first(list(reversed(ordered))) == ordered, "whatever order they come in"
