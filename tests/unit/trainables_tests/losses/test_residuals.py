import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.support.training.dense_losses import gradient, random_rows
from trainables.losses.residuals import learning_residual, sums_of_sequences, target_residual, token_logp

LENGTHS = [4, 1, 6, 2]


def test_residual_sums_to_zero_and_is_never_negative_at_the_target():
    logits, targets, _ = random_rows(LENGTHS, 11)
    residual = target_residual(logits, targets, torch.full((len(targets),), 0.7, dtype=torch.float64))
    torch.testing.assert_close(
        residual.sum(-1), torch.zeros(len(targets), dtype=torch.float64), rtol=0, atol=1e-12
    )
    assert (residual.gather(1, targets.unsqueeze(1)) >= 0).all()


def test_residual_keeps_what_is_left_of_a_memorised_token_in_float32():
    logits = torch.tensor([[30.0, 0.0, 0.0]])
    residual = target_residual(logits, torch.tensor([0]), torch.ones(1))
    torch.testing.assert_close(residual, torch.tensor([[2.0, -1.0, -1.0]]) * math.exp(-30), rtol=1e-5, atol=0)


@pytest.mark.parametrize("label", [-100, 5])
def test_target_logp_refuses_a_label_outside_the_vocabulary(label):
    with pytest.raises(RuntimeError, match="out of bounds"):
        token_logp(torch.zeros(1, 5), torch.tensor([label]))


def test_learning_residual_is_the_gradient_of_the_cross_entropy_with_a_mixture():
    logits, _, _ = random_rows(LENGTHS, 11)
    mixture = random_rows(LENGTHS, 11, seed=1)[0].softmax(-1)
    expected, (expected_gradient,) = gradient(lambda z: cross_entropy(z, mixture, reduction="sum"), logits)
    loss, residual = learning_residual(logits.log_softmax(-1), mixture)
    torch.testing.assert_close(loss.sum(), expected)
    torch.testing.assert_close(residual, expected_gradient)


def test_learning_residual_ignores_impossible_tokens_that_the_mixture_leaves_out():
    logits = torch.tensor([[0.0, -math.inf, 0.0]])
    loss, residual = learning_residual(logits.log_softmax(-1), torch.tensor([[1.0, 0.0, 0.0]]))
    assert loss.tolist() == pytest.approx([math.log(2)])
    torch.testing.assert_close(residual, torch.tensor([[-0.5, 0.0, 0.5]]))


def test_sums_of_sequences_are_float64_and_zero_where_there_is_nothing():
    sums = sums_of_sequences(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 0, 2]), 3)
    assert (sums.tolist(), sums.dtype) == ([3.0, 0.0, 4.0], torch.float64)
