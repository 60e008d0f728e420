"""The rivals of the fused head that gpu.py measures: whole logits with autograd, Liger's kernel, and our
residuals compiled."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

import trainables.losses.fused_head as ours
from trainables.engine.policy import LossHead
from trainables.losses.head_plan import HeadOutput, HeadPlan, HeadTerm, TermStats

Head = Callable[[LossHead, Tensor, HeadPlan], HeadOutput]


def dense(head: LossHead, hidden_NH: Tensor, plan: HeadPlan) -> HeadOutput:
    """Logits of all rows at once in float32, and autograd: the usual way. Knows `graddiff` with `nll`, plain
    and with token beliefs."""
    logits_NV = linear(hidden_NH, head.weight, head.bias).float()
    losses = [_term_loss(logits_NV[term.rows], plan.targets_N[term.rows], plan, term) for term in plan.terms]
    return _output(losses, plan)


def _term_loss(logits_NV: Tensor, targets_N: Tensor, plan: HeadPlan, term: HeadTerm) -> Tensor:
    nll = cross_entropy(logits_NV, targets_N, reduction="sum")
    if term.kind == "nll":
        return nll
    belief = plan.token_belief
    if belief is None:
        return -nll
    with torch.no_grad():
        scores_NV = logits_NV / belief.temperature
        top = scores_NV.topk(belief.top_k, dim=-1)
        belief_NV = torch.zeros_like(scores_NV).scatter_(1, top.indices, top.values.softmax(dim=-1))
    return (1 - belief.weight) * -nll + belief.weight * (belief_NV * logits_NV.log_softmax(dim=-1)).sum()


def liger(head: LossHead, hidden_NH: Tensor, plan: HeadPlan) -> HeadOutput:
    """Liger's fused linear cross-entropy, term by term; it knows no beliefs."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss(reduction="sum")
    assert plan.token_belief is None, "Liger has no belief losses"
    losses = []
    for term in plan.terms:
        nll = loss(head.weight, hidden_NH[term.rows], plan.targets_N[term.rows])
        losses.append(nll if term.kind == "nll" else -nll)
    return _output(losses, plan)


def _output(losses: list[Tensor], plan: HeadPlan) -> HeadOutput:
    total = torch.stack(
        [term.coefficient * loss for term, loss in zip(plan.terms, losses, strict=True)]
    ).sum()
    nothing = total.new_zeros(0, dtype=torch.float64)
    stats = tuple(TermStats(0.0, 0.0, len(term.sequence_N), 0, nothing) for term in plan.terms)
    return HeadOutput(total, stats)


def fused(head: LossHead, hidden_NH: Tensor, plan: HeadPlan) -> HeadOutput:
    """Ours."""
    return ours.FusedHead.forward(head, hidden_NH, plan)


COMPILED = ("nll_residual", "belief_residual", "target_residual", "token_logp")


@contextmanager
def compiled() -> Iterator[None]:
    """Ours, with what it computes from each chunk of logits compiled."""
    plain = {name: getattr(ours, name) for name in COMPILED}
    try:
        for name, function in plain.items():
            setattr(ours, name, torch.compile(function, dynamic=False))
        yield
    finally:
        for name, function in plain.items():
            setattr(ours, name, function)


@contextmanager
def in_place_of_ours(module: LossHead, head: Head) -> Iterator[None]:
    """Let the policy's loss go through another head."""

    def forward(self: LossHead, hidden_NH: Tensor, request: Any) -> Any:
        if not isinstance(request, HeadPlan):
            return LossHead.forward(self, hidden_NH, request)
        output = head(self, hidden_NH, request.to(hidden_NH.device))
        return output.loss, output

    module.forward = MethodType(forward, module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.forward
