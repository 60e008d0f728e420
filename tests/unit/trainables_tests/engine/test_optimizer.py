import math

import pytest
import torch

from search_spaces.settings.trial_settings import OptimizerSettings
from trainables.engine.optimizer import TrialOptimizer, configure

SECOND = OptimizerSettings(
    method="second_order", rho=0.5, global_batch=4, weight_decay=0.1, beta1=0.8, beta2=0.9
)


def gradients(steps, size=5):
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(size, generator=draw, dtype=torch.float64) for _ in range(steps)]


def stepped(optimizer, parameter, every_gradient, rate=0.01):
    for gradient in every_gradient:
        parameter.grad = gradient.clone()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    return parameter.detach().clone()


def fresh(settings):
    parameter = torch.nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))
    optimizer = TrialOptimizer([parameter])
    configure(optimizer.param_groups, settings)
    return optimizer, parameter


def test_adamw_is_torchs_own():
    settings = OptimizerSettings(beta1=0.7, beta2=0.9, weight_decay=0.3)
    theirs = torch.nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))
    expected = stepped(
        torch.optim.AdamW([theirs], betas=(0.7, 0.9), weight_decay=0.3, fused=True), theirs, gradients(7)
    )
    assert torch.equal(stepped(*fresh(settings), gradients(7)), expected)


def test_second_order_step_is_the_formula_number_by_number():
    found = stepped(*fresh(SECOND), gradients(6))
    for index, value in enumerate(torch.linspace(-1, 1, 5, dtype=torch.float64).tolist()):
        mean = curvature = 0.0
        for gradient in (float(step[index]) for step in gradients(6)):
            value *= 1 - 0.01 * 0.1
            mean, curvature = 0.8 * mean + 0.2 * gradient, 0.9 * curvature + 0.1 * gradient**2
            value -= 0.01 * math.copysign(min(1.0, abs(mean) / (0.5 * 4 * curvature)), mean)
        assert float(found[index]) == pytest.approx(value, rel=1e-12)


def test_step_is_never_larger_than_the_rate_and_zero_without_a_gradient():
    settings = SECOND.model_copy(update={"weight_decay": 0.0, "rho": 1e-6})
    optimizer, parameter = fresh(settings)
    before = parameter.detach().clone()
    after = stepped(optimizer, parameter, [torch.tensor([1e-30, -1e3, 0.0, 3.0, -1e-4], dtype=torch.float64)])
    torch.testing.assert_close(
        after - before,
        torch.tensor([-0.01, 0.01, 0.0, -0.01, 0.01], dtype=torch.float64),
        rtol=1e-9,
        atol=1e-15,
    )


def test_change_of_kind_needs_no_more_than_the_state_that_both_have():
    optimizer, parameter = fresh(OptimizerSettings())
    stepped(optimizer, parameter, gradients(3))
    before = {key: value.shape for key, value in optimizer.state[parameter].items()}
    configure(optimizer.param_groups, SECOND)
    for value in optimizer.state[parameter].values():
        value.zero_()
    with torch.no_grad():
        parameter.copy_(torch.linspace(-1, 1, 5, dtype=torch.float64))
    assert torch.equal(stepped(optimizer, parameter, gradients(6)), stepped(*fresh(SECOND), gradients(6)))
    assert {key: value.shape for key, value in optimizer.state[parameter].items()} == before
