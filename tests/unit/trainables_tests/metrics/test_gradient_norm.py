import pytest
import torch

from tests.support.training.plain_engine import random_examples, random_llama
from trainables.data.encoding import Encoded
from trainables.metrics.gradient_norm import gradient_norm


def slow_norm(model, item):
    """The loss as a sum over tokens, each from a forward pass of its own; the gradients by `backward`."""
    content = range(item.prompt_length, len(item.ids) - 1)
    model.zero_grad()
    loss = 0
    for position in content:
        logits = model(input_ids=torch.tensor([item.ids[:position]])).logits[0, -1]
        loss = loss - logits.log_softmax(-1)[item.ids[position]] / len(content)
    loss.backward()
    norms = [
        float((parameter.grad**2).sum().sqrt())
        for parameter in model.parameters()
        if parameter.grad is not None
    ]
    model.zero_grad()
    return sum(norms) / len(norms)


@pytest.mark.parametrize("tied", [False, True])
def test_gradient_norm_matches_backward_one_token_at_a_time(tied):
    model = random_llama(tied=tied)
    for item in random_examples("item", [(3, 5), (1, 2), (4, 3)], seed=0):
        assert gradient_norm(model, item) == pytest.approx(
            slow_norm(model, item), rel=1e-6
        )  # Llama normalises in float32


def test_gradient_norm_does_not_depend_on_the_end_token():
    model = random_llama()
    norms = {gradient_norm(model, Encoded("item", (4, 5, 6, 7, end), 2)) for end in (1, 9)}
    assert len(norms) == 1


def test_gradient_norm_of_running_text_counts_its_last_token():
    model = random_llama()
    ended, running = (
        gradient_norm(model, Encoded("item", ids, 2, ended=end))
        for ids, end in (((4, 5, 6, 7, 1), True), ((4, 5, 6, 7), False))
    )
    assert running == ended != gradient_norm(model, Encoded("item", (4, 5, 6, 7), 2))


def test_gradient_norm_of_the_end_token_alone_is_none():
    assert gradient_norm(random_llama(), Encoded("item", (4, 5, 1), 2)) is None


def test_gradient_norm_falls_when_the_item_is_learnt():
    model, (item,) = random_llama(sharpness=4.0), random_examples("item", [(3, 4)], seed=0)
    before = gradient_norm(model, item)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        model(
            input_ids=torch.tensor([item.ids]), labels=torch.tensor([[-100] * 3 + list(item.answer)])
        ).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert gradient_norm(model, item) < 0.2 * before


def test_gradient_norm_leaves_the_models_own_gradients_alone_even_where_none_are_recorded():
    model, (item,) = random_llama(), random_examples("item", [(3, 4)], seed=0)
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    with torch.no_grad():
        assert gradient_norm(model, item) > 0
        assert not torch.is_grad_enabled()
    assert torch.equal(model.lm_head.weight.grad, torch.ones_like(model.lm_head.weight))
    assert model.get_input_embeddings().weight.grad is None


def test_gradient_norm_is_over_the_parameters_that_learn():
    model, (item,) = random_llama(), random_examples("item", [(3, 4)], seed=0)
    model.requires_grad_(False)
    model.lm_head.weight.requires_grad_(True)
    assert gradient_norm(model, item) == pytest.approx(slow_norm(model, item), rel=1e-9)


def test_gradient_norm_of_a_half_precision_model_has_more_than_its_digits():
    model, items = random_llama().bfloat16(), random_examples("item", [(3, 4)] * 8, seed=0)
    norms = [gradient_norm(model, item) for item in items]
    assert any(norm != float(torch.tensor(norm).bfloat16()) for norm in norms)
