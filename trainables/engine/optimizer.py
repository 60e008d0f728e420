"""The optimizer of a lane: AdamW, or a second-order step with a diagonal curvature, chosen by each trial."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from search_spaces.settings.trial_settings import OptimizerSettings


class TrialOptimizer(torch.optim.AdamW):
    """AdamW, or the second-order step of Sophia.

    Both keep the same state (a step counter and two moments), so a warm lane changes from one to the other by
    a reset.

    Args:
        parameters: The trained parameters.
    """

    def __init__(self, parameters: Any) -> None:
        # The fused form makes one pass over weights and moments and no copies: on a CPU it is nine times
        # faster than the loop over tensors.
        super().__init__(parameters, lr=0.0, fused=True)
        configure(self.param_groups, OptimizerSettings())

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take one step on the parameters that have a gradient."""
        if not any(group["second_order"] for group in self.param_groups):
            return super().step(closure)
        assert closure is None, "a loss is not evaluated again"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    second_order_step(parameter, parameter.grad, self._state_of(parameter), group)
        return None

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            # The same names and types as fused AdamW's, which a later trial on this lane may use.
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state


def configure(groups: list[dict[str, Any]], settings: OptimizerSettings) -> None:
    """Write a trial's hyperparameters into parameter groups; the learning rate is set at each step."""
    second_order = settings.method == "second_order"
    for group in groups:
        group.update(
            betas=(settings.beta1, settings.beta2),
            # The loop sets the learning rate before each step; 0 makes a step without a rate harmless.
            weight_decay=settings.weight_decay,
            lr=0.0,
            second_order=second_order,
            # Sophia's denominator is rho * batch * h; the first two factors are constant over a trial.
            curvature_scale=settings.rho * settings.global_batch,
        )


def second_order_step(
    parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]
) -> None:
    """`w -= rate * clip(m / (rho * batch * h), 1)`, with decoupled weight decay; changes `parameter` and
    `state`.

    `m` is the running mean of gradients and `h` that of their squares, the diagonal of the empirical Fisher
    matrix. Where the curvature is small against the gradient the step is clipped to the rate, as in sign
    descent; where it is large the step is Newton's.

    Source: Sophia (arXiv 2305.14342), used for unlearning in SOUL (arXiv 2404.18239). Deviation: the squares
    are those of the loss itself at every step, where Sophia draws labels every ten steps; SOUL takes the
    loss's gradients too.
    """
    beta1, beta2 = group["betas"]
    state["step"] += 1
    parameter.mul_(1 - group["lr"] * group["weight_decay"])
    mean = state["exp_avg"].lerp_(gradient, 1 - beta1)
    curvature = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    # Where the curvature is zero the mean is zero too, so the floor only keeps the quotient finite.
    size = (
        mean.abs() / (group["curvature_scale"] * curvature).clamp_min_(torch.finfo(mean.dtype).tiny)
    ).clamp_max_(1.0)
    parameter.addcmul_(mean.sign(), size, value=-group["lr"])
