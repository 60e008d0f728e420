"""The language-model head fused with the losses: logits exist for one chunk of answer tokens at a time, never
for all.

The gradients of every loss are known in closed form (the residuals), so they are computed along with the loss
and only scaled in the backward pass, as Liger does. What is held in between is one gradient of the head's
weight and one of the hidden states.

Shape suffixes: N rows (answer tokens), S sequences (responses), V vocabulary, H hidden size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from search_spaces.settings.engine_defaults import head_chunk
from trainables.losses.head_plan import HeadOutput, HeadPlan, HeadTerm, TermStats
from trainables.losses.logit_methods import LogitRows
from trainables.losses.methods import METHODS, LogitMethod, PreferenceMethod, TargetMethod
from trainables.losses.residuals import Softmax, TargetStats, softmax_of, target_residual, token_logp
from trainables.losses.retain import kl_residual, nll_residual
from trainables.losses.token_belief import belief_residual
from trainables.losses.whole_responses import WholeResponses, pair_up, sums_of


class FusedHead(nn.Module):
    """The output head of a causal LM, run together with the losses.

    A module, so that ZeRO-3 gathers its parameters around the forward pass; nothing outside it may touch
    them.

    Args:
        weight: The model's own head weight, `[V, H]`, the same object.
        bias: Its bias, `[V]`.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        assert isinstance(weight, nn.Parameter) and (bias is None or isinstance(bias, nn.Parameter)), (
            "the model's own parameters"
        )
        self.weight = weight
        self.register_parameter("bias", bias)

    def forward(self, hidden_NH: Tensor, plan: HeadPlan) -> HeadOutput:
        """Loss of all answer rows of one packed forward.

        Half-precision inputs are multiplied as they are; logits, losses and sums over rows are in float32
        (float64 for float64).

        Args:
            hidden_NH: Hidden states that predict the targets. None at all give a zero loss that still has
                gradients (of zero), since the other ranks wait for this one in the backward pass.
            plan: How each row counts.
        """
        inputs = (hidden_NH, self.weight, self.bias)
        wanted = [
            torch.is_grad_enabled() and tensor is not None and tensor.requires_grad for tensor in inputs
        ]
        head = _Head(
            hidden_NH.detach(), self.weight.detach(), None if self.bias is None else self.bias.detach()
        )
        gradients = _Gradients(head, wanted)
        loss, terms = _run(head, plan.to(hidden_NH.device), gradients)
        if any(wanted):
            loss = _KnownGradients.apply(loss, gradients.finished(), *inputs)
        return HeadOutput(loss, terms)


@torch.no_grad()
def target_logp(
    hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor, chunk: int | None
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target in nats and the most likely token in its place, both `[N]`, `chunk` rows
    at a time."""
    head = _Head(hidden_NH, weight_VH, bias_V)
    logp_N, argmax_N = hidden_NH.new_empty(len(targets_N), dtype=head.dtype), torch.empty_like(targets_N)
    for rows in head.chunks(slice(0, len(targets_N)), chunk):
        logits_NV = head.logits(rows)
        logp_N[rows], argmax_N[rows] = token_logp(logits_NV, targets_N[rows]), logits_NV.argmax(dim=-1)
    return logp_N, argmax_N


@dataclass(frozen=True)
class _Head:
    """The head's inputs, detached. Lives within one forward only: ZeRO-3 takes the weight away afterwards."""

    hidden_NH: Tensor
    weight_VH: Tensor
    bias_V: Tensor | None

    @property
    def dtype(self) -> torch.dtype:
        """Of logits, losses and of sums over rows."""
        return torch.promote_types(self.hidden_NH.dtype, torch.float32)

    def logits(self, rows: slice) -> Tensor:
        return nn.functional.linear(self.hidden_NH[rows], self.weight_VH, self.bias_V).to(self.dtype)

    def chunks(self, rows: slice, asked: int | None) -> Iterator[slice]:
        """Cut rows into pieces whose logits exist at a time."""
        size = head_chunk(asked, len(self.weight_VH), gpu=self.weight_VH.is_cuda)
        return (slice(start, min(start + size, rows.stop)) for start in range(rows.start, rows.stop, size))


class _Gradients:
    """Gradients of hidden states, weight and bias, filled chunk by chunk; each only if it is wanted."""

    def __init__(self, head: _Head, wanted: list[bool]) -> None:
        self.head = head
        want_hidden, want_weight, want_bias = wanted
        self.hidden_NH = torch.zeros_like(head.hidden_NH) if want_hidden else None
        self._want_weight = want_weight
        self._weight_VH: Tensor | None = None
        self.bias_V = (
            torch.zeros_like(head.bias_V, dtype=head.dtype) if head.bias_V is not None and want_bias else None
        )

    def add(self, rows: slice, residual_NV: Tensor) -> None:
        """Carry the gradient with respect to the logits of some rows on to the inputs."""
        if self.bias_V is not None:
            self.bias_V += residual_NV.sum(dim=0)
        residual_NV = residual_NV.to(self.head.weight_VH.dtype)
        hidden_NH = self.head.hidden_NH[rows]
        if self.hidden_NH is not None:
            self.hidden_NH[rows] = residual_NV @ self.head.weight_VH
        if self._want_weight:
            self._add_to_weight(residual_NV, hidden_NH)

    def _add_to_weight(self, residual_NV: Tensor, hidden_NH: Tensor) -> None:
        if self._weight_VH is None:
            self._weight_VH = residual_NV.T @ hidden_NH
            return
        # Sums over chunks are kept in float32 also for bfloat16: many small contributions would be rounded
        # away. One chunk needs none.
        self._weight_VH = self._weight_VH.to(self.head.dtype)
        if self._weight_VH.dtype == residual_NV.dtype:
            self._weight_VH.addmm_(residual_NV.T, hidden_NH)  # saves the V x H product that `+=` would make
        else:
            self._weight_VH += residual_NV.T @ hidden_NH

    def finished(self) -> tuple[Tensor | None, ...]:
        """The gradients in the precision of their inputs, so that a half-precision weight's is held at half
        the size."""
        weight_VH = self.head.weight_VH
        if self._want_weight and self._weight_VH is None:  # no rows at all
            self._weight_VH = torch.zeros_like(weight_VH)
        return self.hidden_NH, *(
            None if total is None else total.to(weight_VH.dtype) for total in (self._weight_VH, self.bias_V)
        )


class _KnownGradients(torch.autograd.Function):
    """Ties a number to inputs whose gradients are known already: the backward pass only scales them.

    Only the gradients are kept, not the weight: under ZeRO-3 it is gone after the forward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, gradients: tuple[Tensor | None, ...], *inputs: Tensor | None
    ) -> Tensor:
        """Keep the gradients and hand the value through."""
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the inputs, scaled in place."""
        if ctx.gradients is None:
            raise RuntimeError(
                "backward ran twice on one loss of the fused head: its gradients are scaled in place; run the"
                " forward pass again"
            )
        # Given away, not kept: autograd then takes the V x H buffer for `.grad` itself in place of a copy.
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, *(None if gradient is None else gradient.mul_(scale) for gradient in gradients)


@torch.no_grad()
def _run(head: _Head, plan: HeadPlan, gradients: _Gradients) -> tuple[Tensor, tuple[TermStats, ...]]:
    """Loss and statistics of a plan; fills `gradients`."""
    wholes = _whole_responses(head, plan)
    results = tuple(
        _run_term(head, plan, term, whole, gradients) for term, whole in zip(plan.terms, wholes, strict=True)
    )
    loss = sum(term.coefficient * result.loss for term, result in zip(plan.terms, results, strict=True))
    return torch.tensor(loss, dtype=head.dtype, device=head.hidden_NH.device), results


@dataclass(frozen=True)
class ResidualChunk:
    """Some rows of a term."""

    rows: slice
    """Rows of the packed forward."""
    logits_NV: Tensor
    stats: TargetStats
    loss_N: Tensor
    residual_NV: Tensor
    """Gradient of the summed loss with respect to the logits, without the term's coefficient."""
    guarded_N: Tensor


@torch.no_grad()
def residuals(
    hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, plan: HeadPlan
) -> Iterator[tuple[HeadTerm, ResidualChunk]]:
    """The residuals that training steps on, chunk by chunk, for whoever wants to look at them.

    Args:
        hidden_NH: Hidden states that predict the plan's targets.
        weight_VH: Weight of the head.
        bias_V: Its bias.
        plan: How each row counts.
    """
    head = _Head(hidden_NH.detach(), weight_VH.detach(), None if bias_V is None else bias_V.detach())
    for term, whole in zip(plan.terms, _whole_responses(head, plan), strict=True):
        for chunk in _residual_chunks(head, plan, term, whole):
            yield term, chunk


def _residual_chunks(
    head: _Head, plan: HeadPlan, term: HeadTerm, whole: WholeResponses
) -> Iterator[ResidualChunk]:
    logit_method = isinstance(METHODS[plan.forget.method], LogitMethod)
    for rows in head.chunks(term.rows, plan.chunk):
        logits_NV, targets_N = head.logits(rows), plan.targets_N[rows]
        mine = slice(rows.start - term.rows.start, rows.stop - term.rows.start)
        # Methods on whole rows of logits have a form of their own.
        known = (
            None if term.kind == "kl" or (term.kind == "forget" and logit_method) else softmax_of(logits_NV)
        )
        stats = TargetStats(
            token_logp(logits_NV, targets_N, known),
            term.sequence_N[mine],
            term.lengths_S,
            None if term.reference_logp_N is None else term.reference_logp_N[mine],
            whole.logp_S,
            whole.reference_logp_S,
        )
        yield ResidualChunk(
            rows, logits_NV, stats, *_losses(head, plan, term, whole, rows, logits_NV, stats, known)
        )
        del logits_NV, known  # before the next chunk takes as much


def _run_term(
    head: _Head, plan: HeadPlan, term: HeadTerm, whole: WholeResponses, gradients: _Gradients
) -> TermStats:
    # Sums are in float64, so that they do not depend on how the rows are cut into chunks.
    sums = torch.zeros(3, dtype=torch.float64, device=head.hidden_NH.device)
    logp_S = sums.new_zeros(len(term.lengths_S))
    for chunk in _residual_chunks(head, plan, term, whole):
        gradients.add(chunk.rows, chunk.residual_NV.mul_(term.coefficient))
        logp_N = chunk.stats.logp_N.double()
        sums += torch.stack([chunk.loss_N.double().sum(), logp_N.sum(), chunk.guarded_N.double().sum()])
        logp_S.index_add_(0, chunk.stats.sequence_N, logp_N)
        del chunk  # likewise
    loss, target_logp_nats, guarded_rows = sums.tolist()
    return TermStats(loss, target_logp_nats, len(term.sequence_N), int(guarded_rows), logp_S)


def _losses(
    head: _Head,
    plan: HeadPlan,
    term: HeadTerm,
    whole: WholeResponses,
    rows: slice,
    logits_NV: Tensor,
    stats: TargetStats,
    known: Softmax | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, residual and guard of each row of one chunk; the residual takes the memory of `known`."""
    targets_N, method = plan.targets_N[rows], METHODS[plan.forget.method]
    unguarded_N = torch.zeros_like(targets_N, dtype=torch.bool)
    if term.kind == "nll":
        return *nll_residual(logits_NV, targets_N, known), unguarded_N
    if term.kind == "kl":
        return *kl_residual(logits_NV, _reference_logits(head, plan, rows)), unguarded_N
    if isinstance(method, LogitMethod):
        reference_NV = _reference_logits(head, plan, rows) if method.needs_reference_logits else None
        first_N = _first_rows(term, rows)
        return (
            *method.residual(LogitRows(logits_NV, targets_N, first_N, reference_NV), plan.forget),
            unguarded_N,
        )
    assert isinstance(method, TargetMethod | PreferenceMethod), "a method on activations needs no head"
    weight_N, loss_N = (
        method.weigh(stats, plan.forget)
        if isinstance(method, TargetMethod)
        else whole.weigh(stats, method.score)
    )
    if term.kind == "preferred" or plan.token_belief is None:
        return loss_N, target_residual(logits_NV, targets_N, weight_N, known), unguarded_N
    loss_extra_N, residual_NV, guarded_N = belief_residual(
        logits_NV, targets_N, weight_N, plan.token_belief, known
    )
    return loss_N + loss_extra_N, residual_NV, guarded_N


def _first_rows(term: HeadTerm, rows: slice) -> Tensor:
    """Whether each of some rows of a term is the first of its response; responses follow one another."""
    changed_N = torch.ones_like(term.sequence_N, dtype=torch.bool)
    changed_N[1:] = term.sequence_N[1:] != term.sequence_N[:-1]
    return changed_N[rows.start - term.rows.start : rows.stop - term.rows.start]


def _whole_responses(head: _Head, plan: HeadPlan) -> list[WholeResponses]:
    """What each term's rows must know of whole responses, by a pass of its own: the first chunk may not hold
    all rows that count."""
    method = METHODS[plan.forget.method]
    if not method.needs_whole_responses:
        return [WholeResponses()] * len(plan.terms)
    logp: list[Tensor | None] = []
    for term in plan.terms:
        counts = term.kind in ("forget", "preferred")
        inputs = (
            head.hidden_NH[term.rows],
            head.weight_VH,
            head.bias_V,
            plan.targets_N[term.rows],
            plan.chunk,
        )
        logp.append(target_logp(*inputs)[0] if counts else None)
    if isinstance(method, PreferenceMethod):
        return pair_up(method, plan, logp)
    return [
        WholeResponses() if logp_N is None else sums_of(term, logp_N)
        for term, logp_N in zip(plan.terms, logp, strict=True)
    ]


def _reference_logits(head: _Head, plan: HeadPlan, rows: slice) -> Tensor:
    assert plan.reference is not None, "kl terms and some methods need the reference's hidden states and head"
    assert (plan.reference_bias_V is None) == (head.bias_V is None), (
        "the reference has the head of the policy, bias included"
    )
    return _Head(*plan.reference, plan.reference_bias_V).logits(rows)
