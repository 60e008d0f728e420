"""The backward pass of the fused head: which tensors get gradients, memory and precision."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from search_spaces.settings.engine_defaults import head_chunk
from search_spaces.settings.forget_settings import ForgetSettings
from search_spaces.settings.trial_settings import TokenBeliefSettings
from tests.support.training.dense_head import (
    HIDDEN,
    TOKEN_BELIEFS,
    VOCABULARY,
    dense_loss,
    fused,
    inputs,
    make_plan,
    response_of_row,
)
from tests.support.training.dense_losses import (
    gradient,
)
from trainables.losses.fused_head import FusedHead, HeadPlan, HeadTerm


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
