import pytest
import torch

from tests.support.training.dense_losses import gradient, random_rows, retain_loss
from trainables.losses.retain import kl_residual, nll_residual


def test_nll_has_the_gradient_of_cross_entropy():
    logits, targets, _ = random_rows([5, 1], 9)
    loss, residual = nll_residual(logits, targets)
    expected, (expected_gradient,) = gradient(lambda z: retain_loss("nll", z, targets), logits)
    torch.testing.assert_close(loss.sum(), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(residual, expected_gradient, rtol=1e-10, atol=1e-14)


def test_kl_has_the_gradient_of_the_divergence_from_the_reference():
    logits, targets, _ = random_rows([5, 1], 9)
    reference, _, _ = random_rows([5, 1], 9, seed=1)
    loss, residual = kl_residual(logits, reference)
    expected, (expected_gradient,) = gradient(lambda z: retain_loss("kl", z, targets, reference), logits)
    torch.testing.assert_close(loss.sum(), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(residual, expected_gradient, rtol=1e-10, atol=1e-14)


def test_kl_is_zero_when_policy_and_reference_agree_up_to_a_shift():
    logits, _, _ = random_rows([4], 9)
    loss, residual = kl_residual(logits, logits + 5)
    assert loss.abs().max() < 1e-13 and residual.abs().max() < 1e-13


def test_kl_stays_finite_when_the_reference_rules_tokens_out():
    loss, residual = kl_residual(torch.tensor([[0.0, 200.0]]), torch.tensor([[300.0, 0.0]]))
    assert loss.item() == pytest.approx(200.0)
    assert residual.tolist() == [[-1.0, 1.0]]
