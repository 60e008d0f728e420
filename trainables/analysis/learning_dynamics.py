"""What one unlearning step does to other answers: the AKG decomposition of the paper, predicted and actual.

For a step of size eta along the gradient of a loss, the log-probabilities of a probed response change by

    delta log pi(y_o) = -eta * A * K * G + O(eta^2)

with the residuals G = dL/dz at the update (those that training steps on), the tangent kernel K = J_o J_u^T
and the softmax Jacobian A = I - 1 p^T at the probe. Nobody builds K: J_u^T G is the gradient of the
parameters (one backward pass), and K G is how the probe's logits move along it (one forward-mode product).

Source: BS section 5; arXiv 2407.10490. Shape suffixes: N rows (answer tokens), V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, jvp
from torch.nn.functional import linear

from search_spaces.settings.trial_settings import TokenBeliefSettings
from trainables.data.collate import TokenBatch
from trainables.engine.policy import Policy
from trainables.losses.fused_head import residuals
from trainables.losses.head_plan import HeadPlan
from trainables.losses.token_belief import belief

Gradient = Mapping[str, Tensor]
"""Gradient of a loss by parameter name."""


@dataclass(frozen=True)
class Change:
    """First-order change of probed log-probabilities per unit of learning rate, in nats, one entry per answer
    token."""

    logit_N: Tensor
    """How the target's own logit moves: -(K G)_y."""
    softmax_N: Tensor
    """What renormalisation adds, the `1 p^T` of A: plus the mean move of all logits under the policy."""

    @property
    def total_N(self) -> Tensor:
        """Both together."""
        return self.logit_N + self.softmax_N


def step_gradient(policy: Policy, batch: TokenBatch, plan: HeadPlan) -> dict[str, Tensor]:
    """Gradient of a plan's loss with respect to every parameter, by the code that trains.

    Args:
        policy: The unsharded model.
        batch: The update's packed sequences.
        plan: How each row counts; `replace(plan, terms=(term,))` gives one term's share, and the shares add
            up (theorem 5.3).
    """
    parameters = dict(policy.named_parameters())
    loss, _ = policy.loss(batch, plan)
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
    }


def predicted_change(policy: Policy, gradient: Gradient, probe: TokenBatch) -> Change:
    """First-order effect of a step against a gradient on the probe's log-probabilities.

    Args:
        policy: The unsharded model; its attention must allow forward-mode products (`eager`).
        gradient: What `step_gradient` gave.
        probe: The responses that are looked at.
    """
    parameters = {name: parameter.detach() for name, parameter in policy.named_parameters()}
    tangent = {name: -gradient[name] for name in parameters}
    both: tuple[Tensor, Tensor] = jvp(
        lambda values: _logits(policy, values, probe), (parameters,), (tangent,)
    )[:2]
    logits_NV, moved_NV = both
    at_target_N1 = probe.targets_N.unsqueeze(1)
    return Change(
        moved_NV.gather(1, at_target_N1).squeeze(1), -(logits_NV.softmax(dim=-1) * moved_NV).sum(dim=-1)
    )


@torch.no_grad()
def actual_change(policy: Policy, gradient: Gradient, learning_rate: float, probe: TokenBatch) -> Tensor:
    """Change of the probe's log-probabilities, in nats, `[N]`, when the step is really taken; the policy is
    left as it was."""
    parameters = {name: parameter.detach() for name, parameter in policy.named_parameters()}
    stepped = {name: parameter - learning_rate * gradient[name] for name, parameter in parameters.items()}
    before, after = (_logp(_logits(policy, values, probe), probe) for values in (parameters, stepped))
    return after - before


def _logits(policy: Policy, parameters: Mapping[str, Tensor], batch: TokenBatch) -> Tensor:
    def work(inner: Policy) -> Tensor:
        return linear(inner.answer_hidden(batch), inner.head.weight, inner.head.bias)

    return functional_call(policy, dict(parameters), (work,))


def _logp(logits_NV: Tensor, batch: TokenBatch) -> Tensor:
    return logits_NV.log_softmax(dim=-1).gather(1, batch.targets_N.unsqueeze(1)).squeeze(1)


@dataclass(frozen=True)
class ResidualMass:
    """Where the residuals of a step's forget rows push, as sums of their absolute values."""

    target: float
    """On the target tokens."""
    belief: float
    """On the other tokens of the belief: the policy's own top tokens, whether or not the loss knows beliefs.
    """
    rest: float
    """On all others."""


@torch.no_grad()
def residual_mass(
    policy: Policy, batch: TokenBatch, plan: HeadPlan, believed: TokenBeliefSettings
) -> ResidualMass:
    """Shares of the summed absolute residual by group of tokens, over all forget rows.

    Args:
        policy: The unsharded model.
        batch: The update's packed sequences.
        plan: How each row counts.
        believed: The belief whose tokens are told apart, the plan's own or another.
    """
    sums = torch.zeros(3, dtype=torch.float64)
    hidden_NH = policy.answer_hidden(batch)
    for term, chunk in residuals(hidden_NH, policy.head.weight, policy.head.bias, plan):
        if term.kind != "forget":
            continue
        targets_N = plan.targets_N[chunk.rows]
        size_NV = (term.coefficient * chunk.residual_NV).abs().double()
        chosen_NV = belief(chunk.logits_NV, targets_N, believed) > 0
        at_target_N1 = targets_N.unsqueeze(1)
        on_target = size_NV.gather(1, at_target_N1).sum()
        on_belief = size_NV.scatter(1, at_target_N1, 0.0)[chosen_NV].sum()
        sums += torch.stack([on_target, on_belief, size_NV.sum() - on_target - on_belief]).cpu()
    target, belief_share, rest = (sums / sums.sum()).tolist()
    return ResidualMass(target, belief_share, rest)
