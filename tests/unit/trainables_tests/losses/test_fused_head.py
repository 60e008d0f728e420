"""Loss, gradients and statistics of the fused head are those of the dense formulas."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import linear

from search_spaces.catalogue.method_catalogue import METHODS as CATALOGUE
from search_spaces.settings.forget_settings import ForgetSettings
from search_spaces.settings.trial_settings import TokenBeliefSettings
from tests.support.training.dense_head import (
    BELIEF_NAMES,
    HIDDEN,
    TOKEN_BELIEFS,
    VOCABULARY,
    check_same,
    dense_term_loss,
    fused,
    inputs,
    make_plan,
    numbers,
    response_of_row,
)
from tests.support.training.dense_losses import (
    slow_mixtures,
    token_nll,
)
from trainables.losses.fused_head import HeadPlan, HeadTerm, target_logp


@pytest.mark.parametrize("token_belief", TOKEN_BELIEFS, ids=BELIEF_NAMES)
@pytest.mark.parametrize("method", [name for name, info in CATALOGUE.items() if info.token_beliefs])
def test_head_gives_the_loss_and_gradients_of_the_dense_published_formula(method, token_belief):
    check_same(make_plan(method, token_belief), inputs())


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(
    "method", [name for name, info in CATALOGUE.items() if not info.token_beliefs and not info.activations]
)
def test_head_gives_the_loss_and_gradients_of_methods_without_a_target(method, with_bias):
    check_same(make_plan(method, with_bias=with_bias), inputs(with_bias))


@pytest.mark.parametrize("with_bias", [True, False])
def test_head_gives_the_loss_and_gradients_of_kl_retain(with_bias):
    check_same(make_plan("graddiff", retain="kl", with_bias=with_bias), inputs(with_bias))


def test_head_refuses_kl_when_only_one_of_policy_and_reference_has_a_bias():
    with pytest.raises(AssertionError, match="bias included"):
        fused(replace(make_plan(retain="kl"), reference_bias_V=None), *inputs())


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("method", [name for name, info in CATALOGUE.items() if not info.activations])
def test_head_gives_the_same_for_any_chunk(method, chunk):
    belief = TOKEN_BELIEFS[2] if CATALOGUE[method].token_beliefs else None
    check_same(make_plan(method, belief, retain="kl", chunk=chunk), inputs())


def test_head_does_not_care_about_the_order_of_responses():
    hidden, weight = inputs(with_bias=False)
    lengths = [3, 1, 4]
    targets = torch.randint(VOCABULARY, (8,), generator=torch.Generator().manual_seed(5))
    reference = -numbers(8, seed=6).abs()

    def plan_of(order):
        mine = [lengths[index] for index in order]
        rows = torch.cat([(response_of_row(lengths) == index).nonzero().squeeze(1) for index in order])
        term = HeadTerm(
            slice(0, 8), "forget", 1.0, response_of_row(mine), torch.tensor(mine), reference[rows]
        )
        return rows, HeadPlan(targets[rows], (term,), chunk=3)

    in_order, plan = plan_of([0, 1, 2])
    permuted, other = plan_of([2, 0, 1])
    first, (hidden_grad, weight_grad) = fused(plan, hidden[in_order], weight)
    second, (other_hidden_grad, other_weight_grad) = fused(other, hidden[permuted], weight)
    torch.testing.assert_close(second.loss, first.loss)
    torch.testing.assert_close(other_weight_grad, weight_grad)
    torch.testing.assert_close(other_hidden_grad, hidden_grad[permuted])
    torch.testing.assert_close(second.terms[0].sequence_logp_S, first.terms[0].sequence_logp_S[[2, 0, 1]])


def test_losses_of_two_calls_add_up_to_that_of_one():
    hidden, weight = inputs(with_bias=False)
    plan = make_plan("simnpo", TOKEN_BELIEFS[1], with_bias=False)
    whole, whole_gradients = fused(plan, hidden, weight)
    parts = [fused(replace(plan, terms=terms), hidden, weight) for terms in (plan.terms[:1], plan.terms[1:])]
    torch.testing.assert_close(sum(output.loss for output, _ in parts), whole.loss)
    for found, expected in zip(
        zip(*(gradients for _, gradients in parts), strict=True), whole_gradients, strict=True
    ):
        torch.testing.assert_close(sum(found), expected)


def test_head_counts_what_its_terms_came_to():
    tensors, plan = inputs(), make_plan("npo", TOKEN_BELIEFS[2])
    output, _ = fused(plan, *tensors)
    logits = linear(*tensors)
    for term, stats in zip(plan.terms, output.terms, strict=True):
        mine, targets = logits[term.rows], plan.targets_N[term.rows]
        guarded = slow_mixtures(mine, targets, plan.token_belief)[1].sum() if term.kind == "forget" else 0
        sums = torch.stack(
            [
                -token_nll(mine, targets)[term.sequence_N == index].sum()
                for index in range(len(term.lengths_S))
            ]
        )
        assert stats.loss == pytest.approx(float(dense_term_loss(logits, plan, term)))
        assert stats.target_logp_nats == pytest.approx(float(sums.sum()))
        assert (stats.rows, stats.guarded_rows) == (len(targets), int(guarded))
        torch.testing.assert_close(stats.sequence_logp_S, sums)
    assert output.terms[0].guarded_rows > 0


@pytest.mark.parametrize("method", ["npo", "wga"])
def test_head_without_rows_gives_zero_and_gradients_of_zero(method):
    _, weight, bias = inputs()
    nothing = torch.zeros(0, dtype=torch.long)
    forget = HeadTerm(slice(0, 0), "forget", 1.0, nothing, nothing, torch.zeros(0, dtype=torch.float64))
    # An empty batch is one dummy sequence of no answer tokens.
    retain = HeadTerm(slice(0, 0), "nll", 1.0, nothing, torch.tensor([0]))
    plan = HeadPlan(nothing, (forget, retain), ForgetSettings(method=method), TokenBeliefSettings())
    output, gradients = fused(plan, torch.zeros(0, HIDDEN, dtype=torch.float64), weight, bias)
    assert output.loss.item() == 0 and [stats.rows for stats in output.terms] == [0, 0]
    assert [tuple(grad.shape) for grad in gradients] == [(0, HIDDEN), (VOCABULARY, HIDDEN), (VOCABULARY,)]
    assert all(grad.abs().sum() == 0 for grad in gradients)


@pytest.mark.parametrize("chunk", [2, 1000])
def test_target_logp_is_that_of_the_dense_formula(chunk):
    hidden, weight, bias = inputs()
    targets = torch.arange(len(hidden)) % VOCABULARY
    logp, argmax = target_logp(hidden, weight, bias, targets, chunk)
    logits = linear(hidden, weight, bias)
    torch.testing.assert_close(logp, -token_nll(logits, targets))
    assert torch.equal(argmax, logits.argmax(-1))


def test_target_logp_of_no_rows_is_empty_and_of_bfloat16_is_float32():
    logp, argmax = target_logp(
        torch.zeros(0, 3, dtype=torch.bfloat16),
        torch.zeros(5, 3, dtype=torch.bfloat16),
        None,
        torch.zeros(0, dtype=torch.long),
        8,
    )
    assert (logp.shape, logp.dtype, argmax.shape, argmax.dtype) == ((0,), torch.float32, (0,), torch.long)


def test_plan_refuses_terms_that_overlap_or_cut_a_response():
    term = HeadTerm(slice(0, 2), "nll", 1.0, torch.zeros(2, dtype=torch.long), torch.tensor([2]))
    with pytest.raises(AssertionError, match="without overlap"):
        HeadPlan(torch.zeros(2, dtype=torch.long), (term, term))
    with pytest.raises(AssertionError, match="whole responses"):
        HeadPlan(torch.zeros(2, dtype=torch.long), (replace(term, lengths_S=torch.tensor([3])),))
    with pytest.raises(AssertionError, match="forget, preferred, nll, kl, activations"):
        HeadPlan(torch.zeros(2, dtype=torch.long), (replace(term, kind="dpo"),))
