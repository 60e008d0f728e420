"""Learning dynamics: the effect of one unlearning step on other answers, predicted (AKG) and actual.

For a step of size eta along the gradient of a loss, the log-probabilities of a probed response change by

    delta log pi(y_o) = -eta * A * K * G + O(eta^2)

with the residuals G = dL/dz at the update (the same as in training), the tangent kernel K = J_o J_u^T and the
softmax Jacobian A = I - 1 p^T at the probe. K is never built: J_u^T G is the gradient of the parameters (one
backward pass), and K G is the change of the probe's logits along it (one forward-mode product).

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
    """First-order change of each answer token's log-probability, in nats per unit of learning rate."""

    logit_N: Tensor
    """Change of the target's own logit: -(K G)_y."""
    softmax_N: Tensor
    """Change by renormalisation, the `1 p^T` of A: minus the mean change of all logits under the policy."""

    @property
    def total_N(self) -> Tensor:
        """Sum of both changes."""
        return self.logit_N + self.softmax_N


def step_gradient(policy: Policy, batch: TokenBatch, plan: HeadPlan) -> dict[str, Tensor]:
    """Compute the gradient of a plan's loss with respect to every parameter, with the code of training.

    Args:
        policy: The unsharded model.
        batch: Packed sequences of the update.
        plan: How each row counts; `replace(plan, terms=(term,))` gives one term's share, and the shares add
            up (theorem 5.3).
    """
    parameters = dict(policy.named_parameters())
    loss, _ = policy.loss(batch, plan)
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        # A parameter outside of the graph has no gradient; zeros keep the tangent complete.
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
    }


def predicted_change(policy: Policy, gradient: Gradient, probe: TokenBatch) -> Change:
    """Predict to first order the effect of a step against a gradient on the probe's log-probabilities.

    Args:
        policy: The unsharded model; its attention must support forward-mode differentiation (`eager`).
        gradient: Result of `step_gradient`.
        probe: The probed responses.
    """
    parameters = {name: parameter.detach() for name, parameter in policy.named_parameters()}
    tangent = {name: -gradient[name] for name in parameters}
    # One forward-mode product gives the logits and their directional derivative, `[N, V]` each.
    both: tuple[Tensor, Tensor] = jvp(
        lambda values: _logits(policy, values, probe), (parameters,), (tangent,)
    )[:2]
    logits_NV, moved_NV = both
    at_target_N1 = probe.targets_N.unsqueeze(1)
    # log p_y = z_y - logsumexp(z), and the derivative of logsumexp is the mean of dz under the policy.
    return Change(
        moved_NV.gather(1, at_target_N1).squeeze(1), -(logits_NV.softmax(dim=-1) * moved_NV).sum(dim=-1)
    )


@torch.no_grad()
def actual_change(policy: Policy, gradient: Gradient, learning_rate: float, probe: TokenBatch) -> Tensor:
    """Return the change of the probe's log-probabilities in nats, `[N]`, when the step is taken.

    The policy stays unchanged: the step is taken on copies of the parameters.
    """
    parameters = {name: parameter.detach() for name, parameter in policy.named_parameters()}
    stepped = {name: parameter - learning_rate * gradient[name] for name, parameter in parameters.items()}
    before, after = (_logp(_logits(policy, values, probe), probe) for values in (parameters, stepped))
    return after - before


# The head runs as a plain product: the fused head's gradients in closed form have no forward mode.
def _logits(policy: Policy, parameters: Mapping[str, Tensor], batch: TokenBatch) -> Tensor:
    def work(inner: Policy) -> Tensor:
        return linear(inner.answer_hidden(batch), inner.head.weight, inner.head.bias)

    logits_NV: Tensor = functional_call(policy, dict(parameters), (work,))
    return logits_NV


def _logp(logits_NV: Tensor, batch: TokenBatch) -> Tensor:
    return logits_NV.log_softmax(dim=-1).gather(1, batch.targets_N.unsqueeze(1)).squeeze(1)


@dataclass(frozen=True)
class ResidualMass:
    """Shares of three groups of tokens in the summed absolute residual of a step's forget rows."""

    target: float
    """Share on the target tokens."""
    belief: float
    """Share on the other tokens of the belief, the policy's top tokens, for losses without beliefs too."""
    rest: float
    """Share on all other tokens."""


@torch.no_grad()
def residual_mass(
    policy: Policy, batch: TokenBatch, plan: HeadPlan, believed: TokenBeliefSettings
) -> ResidualMass:
    """Compute the shares of the summed absolute residual by group of tokens, over all forget rows.

    Args:
        policy: The unsharded model.
        batch: Packed sequences of the update.
        plan: How each row counts.
        believed: The belief that defines the belief group, the plan's own or another one.
    """
    sums = torch.zeros(3, dtype=torch.float64)
    hidden_NH = policy.answer_hidden(batch)
    for term, chunk in residuals(hidden_NH, policy.head.weight, policy.head.bias, plan):
        # A preferred answer is learned, not unlearned: its residual has another meaning.
        if term.kind != "forget":
            continue
        targets_N = plan.targets_N[chunk.rows]
        # With the coefficient, since a plan may have two forget terms (targets and sequence beliefs).
        size_NV = (term.coefficient * chunk.residual_NV).abs().double()
        chosen_NV = belief(chunk.logits_NV, targets_N, believed) > 0
        at_target_N1 = targets_N.unsqueeze(1)
        on_target = size_NV.gather(1, at_target_N1).sum()
        # The target is set to zero first: it may be one of the top tokens, and must count once.
        on_belief = size_NV.scatter(1, at_target_N1, 0.0)[chosen_NV].sum()
        sums += torch.stack([on_target, on_belief, size_NV.sum() - on_target - on_belief]).cpu()
    target, belief_share, rest = (sums / sums.sum()).tolist()
    return ResidualMass(target, belief_share, rest)
