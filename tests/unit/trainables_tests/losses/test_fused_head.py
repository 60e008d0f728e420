from dataclasses import replace

import pytest
import torch
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from search_spaces.catalogue.method_catalogue import METHODS as CATALOGUE
from search_spaces.settings.engine_defaults import head_chunk
from search_spaces.settings.forget_settings import ForgetSettings
from search_spaces.settings.trial_settings import TokenBeliefSettings
from tests.support.dense_losses import (
    belief_loss,
    gradient,
    pair_loss,
    published_loss,
    retain_loss,
    row_loss,
    slow_mixtures,
    token_nll,
)
from trainables.losses.fused_head import FusedHead, HeadPlan, HeadTerm, target_logp
from trainables.losses.methods import METHODS, LogitMethod

HIDDEN, VOCABULARY = 6, 13
FORGET, BELIEFS, PREFERRED, RETAIN = [3, 1, 4], [2, 2], [2, 3, 1], [5, 1]
PARTNERS = {"forget": [0, 1, 2], "beliefs": [2, 0]}
COEFFICIENTS = {"forget": 0.5, "beliefs": 0.25, "preferred": 1.0, "retain": 1.75}
TOKEN_BELIEFS = [
    None,
    TokenBeliefSettings(weight=0.3, top_k=4),
    TokenBeliefSettings(weight=0.3, top_k=4, temperature=2.0),
    TokenBeliefSettings(weight=0.3, top_k=4, temperature=2.0, guard_target=False),
    TokenBeliefSettings(weight=0.4, top_k=3, exclude_target=True),
]
BELIEF_NAMES = ["plain", "belief", "guarded", "unguarded", "without_target"]


def numbers(*shape, seed=0, scale=1.5):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def response_of_row(lengths):
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.long))


def inputs(with_bias=True):
    """Hidden states, weight and bias of a head that is sure of some targets."""
    rows = sum(FORGET + BELIEFS + PREFERRED + RETAIN)
    return (
        numbers(rows, HIDDEN),
        numbers(VOCABULARY, HIDDEN, seed=1),
        *([numbers(VOCABULARY, seed=2)] if with_bias else []),
    )


def make_plan(method="npo", token_belief=None, retain="nll", chunk=4, with_bias=True):
    hidden, weight, *bias = inputs(with_bias)
    targets = torch.randint(VOCABULARY, (len(hidden),), generator=torch.Generator().manual_seed(3))
    targets[::2] = linear(hidden, weight, *bias).argmax(-1)[::2]
    terms, start = [], 0
    for name, lengths in (
        ("forget", FORGET),
        ("beliefs", BELIEFS),
        ("preferred", PREFERRED),
        ("retain", RETAIN),
    ):
        rows = slice(start, start + sum(lengths))
        start = rows.stop
        if name == "preferred" and METHODS[method].preferred is None:
            continue
        kind = {"beliefs": "forget", "retain": retain}.get(name, name)
        reference = None if name == "retain" else -8 * numbers(sum(lengths), seed=start).abs() / len(lengths)
        partners = torch.tensor(PARTNERS[name]) if name in PARTNERS and METHODS[method].preferred else None
        terms.append(
            HeadTerm(
                rows,
                kind,
                COEFFICIENTS[name],
                response_of_row(lengths),
                torch.tensor(lengths),
                reference,
                partners,
            )
        )
    known = retain == "kl" or METHODS[method].needs_reference_logits
    reference = (numbers(len(hidden), HIDDEN, seed=8), numbers(VOCABULARY, HIDDEN, seed=9)) if known else None
    reference_bias = numbers(VOCABULARY, seed=10) if known and with_bias else None
    return HeadPlan(
        targets, tuple(terms), ForgetSettings(method=method), token_belief, chunk, reference, reference_bias
    )


def dense_term_loss(every_logit, plan, term):
    """Loss of one term without its coefficient."""
    logits, targets = every_logit[term.rows], plan.targets_N[term.rows]
    known = None
    if plan.reference is not None:
        known = linear(plan.reference[0][term.rows], plan.reference[1], plan.reference_bias_V)
    if term.kind == "preferred":
        return torch.zeros((), dtype=logits.dtype)  # it counts with its pairs
    if term.kind in ("nll", "kl"):
        return retain_loss(term.kind, logits, targets, known)
    if isinstance(METHODS[plan.forget.method], LogitMethod):
        return row_loss(logits, targets, term.sequence_N, plan.forget, known)
    nll = token_nll(logits, targets)
    sides = preferred_sides(every_logit, plan, term)
    if plan.token_belief is None:
        return dense_base(nll, sides, plan, term)
    fixed = [[part.detach() for part in side] for side in sides]
    _, (slopes,) = gradient(lambda nll: dense_base(nll, fixed, plan, term), nll)
    # The value is the published one at lambda 0; for the response the gradient is the mixture's alone.
    mixture = belief_loss(logits, targets, -slopes, plan.token_belief)
    return dense_base(nll.detach(), sides, plan, term) + mixture - (slopes * nll).sum().detach()


def preferred_sides(every_logit, plan, term):
    """Per response of a term its preferred answer's token losses under policy and reference."""
    if term.partner_S is None:
        return []
    answers = next(other for other in plan.terms if other.kind == "preferred")
    nll = token_nll(every_logit[answers.rows], plan.targets_N[answers.rows])
    return [
        (nll[answers.sequence_N == index], -answers.reference_logp_N[answers.sequence_N == index])
        for index in term.partner_S.tolist()
    ]


def dense_base(nll, sides, plan, term):
    """Loss of a term's responses without beliefs."""
    if not sides:
        return published_loss(nll, term.sequence_N, term.reference_logp_N, plan.forget)
    mine = [
        (nll[term.sequence_N == index], -term.reference_logp_N[term.sequence_N == index])
        for index in range(len(sides))
    ]
    return sum(pair_loss(response, side, plan.forget) for response, side in zip(mine, sides, strict=True))


def dense_loss(plan, hidden, weight, bias=None):
    logits = linear(hidden, weight, bias)
    return sum(term.coefficient * dense_term_loss(logits, plan, term) for term in plan.terms)


def fused(plan, hidden, weight, bias=None, *, scale=1.0):
    """Output and gradients of hidden states, weight and, if any, bias."""
    hidden = hidden.clone().requires_grad_()
    head = FusedHead(*(torch.nn.Parameter(tensor.clone()) for tensor in (weight, bias) if tensor is not None))
    output = head(hidden, plan)
    (output.loss * scale).backward()
    return output, [hidden.grad, *(parameter.grad for parameter in head.parameters())]


def check_same(plan, tensors, rtol=1e-10, atol=1e-11):
    output, found = fused(plan, *tensors)
    loss, expected = gradient(lambda *leaves: dense_loss(plan, *leaves), *tensors)
    torch.testing.assert_close(output.loss.detach(), loss, rtol=rtol, atol=atol)
    torch.testing.assert_close(found, list(expected), rtol=rtol, atol=atol)


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


def test_rows_of_no_term_have_no_gradient():
    plan = make_plan("ga")
    _, (hidden_grad, *_) = fused(replace(plan, terms=plan.terms[1:2]), *inputs())
    used = torch.zeros(len(hidden_grad), dtype=torch.bool)
    used[plan.terms[1].rows] = True
    assert torch.equal(hidden_grad.abs().sum(-1) > 0, used)


def test_backward_scales_the_gradients():
    plan, tensors = make_plan("wga"), inputs()
    _, once = fused(plan, *tensors)
    _, thrice = fused(plan, *tensors, scale=3.0)
    torch.testing.assert_close(thrice, [3 * grad for grad in once])


def test_backward_does_not_need_the_weight_as_under_zero3():
    hidden, weight, bias = inputs()
    plan = make_plan("npo")
    _, expected = fused(plan, hidden, weight, bias)
    hidden.requires_grad_()
    head = FusedHead(torch.nn.Parameter(weight.clone()), torch.nn.Parameter(bias))
    loss = head(hidden, plan).loss
    shape, head.weight.data = head.weight.shape, torch.empty(0, dtype=torch.float64)
    head.weight.data = torch.full(shape, float("nan"), dtype=torch.float64)
    loss.backward()
    torch.testing.assert_close([hidden.grad, head.weight.grad, head.bias.grad], expected)


def test_backward_refuses_to_run_twice():
    hidden, weight, bias = inputs()
    head = FusedHead(torch.nn.Parameter(weight), torch.nn.Parameter(bias))
    loss = head(hidden, make_plan("ga")).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="run the forward pass again"):
        loss.backward()


def test_head_reaches_the_parameters_of_a_tied_embedding():
    embedding = torch.nn.Embedding(VOCABULARY, HIDDEN, dtype=torch.float64)
    plan = make_plan("npo", with_bias=False)
    ids = torch.arange(len(plan.targets_N)) % VOCABULARY
    head = FusedHead(embedding.weight)
    head(embedding(ids), plan).loss.backward()
    _, (expected,) = gradient(lambda weight: dense_loss(plan, weight[ids], weight), embedding.weight)
    torch.testing.assert_close(embedding.weight.grad, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_head_leaves_frozen_inputs_without_a_gradient(frozen):
    hidden, weight = inputs(with_bias=False)
    plan = make_plan("ga", with_bias=False)
    _, (hidden_grad, weight_grad) = fused(plan, hidden, weight)
    head = FusedHead(torch.nn.Parameter(weight, requires_grad=frozen != "weight"))
    hidden.requires_grad_(frozen != "hidden")
    head(hidden, plan).loss.backward()
    found, kept, expected = (
        (head.weight, hidden, weight_grad) if frozen == "hidden" else (hidden, head.weight, hidden_grad)
    )
    torch.testing.assert_close(found.grad, expected)
    assert kept.grad is None


class LargestTensor(TorchDispatchMode):
    """Notes the most elements of any tensor that is allocated meanwhile; views and in-place results are
    not."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        known = {
            tensor.untyped_storage().data_ptr()
            for tensor in tree_leaves(args)
            if isinstance(tensor, torch.Tensor)
        }
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in known:
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("method", ["npo", "wga"])
@pytest.mark.parametrize("retain", ["nll", "kl"])
def test_head_never_holds_logits_of_more_than_a_chunk(method, retain):
    rows, vocabulary, hidden_size, chunk = 96, 3000, 4, 8
    terms = tuple(
        HeadTerm(
            slice(start, start + 48),
            kind,
            1.0,
            response_of_row([48]),
            torch.tensor([48]),
            torch.full((48,), -2.0),
        )
        for start, kind in ((0, "forget"), (48, retain))
    )
    hidden, weight = (
        torch.randn(rows, hidden_size, requires_grad=True),
        torch.nn.Parameter(torch.randn(vocabulary, hidden_size)),
    )
    reference = (hidden.detach(), weight.detach())
    plan = HeadPlan(
        torch.arange(rows),
        terms,
        ForgetSettings(method=method),
        TokenBeliefSettings(temperature=2),
        chunk,
        reference,
    )
    with LargestTensor() as largest:
        FusedHead(weight)(hidden, plan).loss.backward()
    assert largest.elements == chunk * vocabulary
    assert weight.grad.abs().sum() > 0


def test_head_makes_no_gradient_buffer_without_grad():
    hidden, weight = torch.randn(4, 50), torch.nn.Parameter(torch.randn(300, 50))
    term = HeadTerm(slice(0, 4), "nll", 1.0, response_of_row([4]), torch.tensor([4]))
    with torch.no_grad(), LargestTensor() as largest:
        output = FusedHead(weight)(hidden, HeadPlan(torch.arange(4), (term,)))
    assert not output.loss.requires_grad
    assert largest.elements == 4 * 300


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_head_keeps_the_precision_of_its_inputs_and_sums_in_float32(dtype):
    plan, tensors = make_plan("npo", TOKEN_BELIEFS[2], retain="nll"), inputs()
    rounded = [tensor.to(dtype) for tensor in tensors]
    output, found = fused(plan, *rounded)
    loss, expected = gradient(
        lambda *leaves: dense_loss(plan, *leaves), *(tensor.double() for tensor in rounded)
    )
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
    assert output.loss.dtype == torch.float32 and {grad.dtype for grad in found} == {dtype}
    assert output.loss.item() == pytest.approx(float(loss), rel=tolerance)
    for grad, wanted in zip(found, expected, strict=True):
        assert (grad.double() - wanted).norm() < tolerance * wanted.norm()


def test_weight_gradient_of_many_bfloat16_rows_is_not_rounded_away():
    rows = 4096
    hidden, weight = (
        torch.ones(rows, 1, dtype=torch.bfloat16),
        torch.nn.Parameter(torch.zeros(2, 1, dtype=torch.bfloat16)),
    )
    term = HeadTerm(slice(0, rows), "nll", 1.0, response_of_row([rows]), torch.tensor([rows]))
    FusedHead(weight)(hidden, HeadPlan(torch.zeros(rows, dtype=torch.long), (term,), chunk=1)).loss.backward()
    assert weight.grad.flatten().tolist() == [-rows / 2, rows / 2]


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


def test_chunk_that_is_left_open_follows_the_memory_of_a_gpu_and_is_fixed_on_a_cpu():
    assert (
        head_chunk(None, 128_256, gpu=False)
        == 128
        < 256 * 1024**2 // (20 * 500)
        == head_chunk(None, 500, gpu=False)
    )
    assert (
        20 * 128_256 * head_chunk(None, 128_256, gpu=True)
        <= 2 * 1024**3
        < 20 * 128_256 * (head_chunk(None, 128_256, gpu=True) + 1)
    )
    assert head_chunk(None, 10**9, gpu=True) == 256
    assert head_chunk(7, 128_256, gpu=True) == 7
