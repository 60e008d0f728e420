"""The language-model head fused with the losses, so that logits exist for one chunk of rows at a time.

The gradient of every loss with respect to the logits has a closed form (the residual), so the forward pass
computes it along with the loss and the backward pass only scales it, as Liger does. Between the two passes
the head holds one gradient of its weight and one of the hidden states.

Shape suffixes: N rows (answer tokens), S sequences (responses), V vocabulary, H hidden size.
"""

from collections.abc import Callable, Iterator
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
        """Compute the loss of all answer rows of one packed forward pass, and its gradients.

        Half-precision inputs are multiplied as they are; logits, losses and sums over rows are in float32
        (float64 for float64).

        Args:
            hidden_NH: Hidden states that predict the targets, `[N, H]`. With N = 0 the loss is zero and still
                has gradients (of zero), since the other ranks wait for this one in the backward pass.
            plan: How each row counts.

        Returns:
            The scalar loss, and the statistics of each term of the plan.
        """
        inputs = (hidden_NH, self.weight, self.bias)
        # Gradients that nothing will use are not computed: of a frozen head they would take V x H elements.
        wanted = [
            torch.is_grad_enabled() and tensor is not None and tensor.requires_grad for tensor in inputs
        ]
        # The inputs are detached: the closed forms replace autograd, which would keep the logits of every
        # chunk.
        head = _Head(
            hidden_NH.detach(), self.weight.detach(), None if self.bias is None else self.bias.detach()
        )
        gradients = _Gradients(head, wanted)
        loss, terms = _run(head, plan.to(hidden_NH.device), gradients)
        if any(wanted):
            apply: Callable[..., Tensor] = _PrecomputedGradients.apply
            loss = apply(loss, gradients.finished(), *inputs)
        return HeadOutput(loss, terms)


@torch.no_grad()
def target_logp(
    hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor, chunk: int | None
) -> tuple[Tensor, Tensor]:
    """Return the log-probability of each target in nats and the argmax token in its place, both `[N]`.

    Args:
        hidden_NH: Hidden states that predict the targets.
        weight_VH: Weight of the head.
        bias_V: Bias of the head.
        targets_N: Target tokens.
        chunk: Rows whose logits exist at a time; None: chosen by the device.
    """
    head = _Head(hidden_NH, weight_VH, bias_V)
    logp_N, argmax_N = hidden_NH.new_empty(len(targets_N), dtype=head.dtype), torch.empty_like(targets_N)
    for rows in head.chunks(slice(0, len(targets_N)), chunk):
        logits_NV = head.logits(rows)
        logp_N[rows], argmax_N[rows] = token_logp(logits_NV, targets_N[rows]), logits_NV.argmax(dim=-1)
    return logp_N, argmax_N


@dataclass(frozen=True)
class _Head:
    """The head's detached inputs. An instance lives within one forward pass: ZeRO-3 then frees the weight."""

    hidden_NH: Tensor
    weight_VH: Tensor
    bias_V: Tensor | None

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the logits, the losses and the sums over rows."""
        return torch.promote_types(self.hidden_NH.dtype, torch.float32)

    def logits(self, rows: slice) -> Tensor:
        return nn.functional.linear(self.hidden_NH[rows], self.weight_VH, self.bias_V).to(self.dtype)

    def chunks(self, rows: slice, chunk: int | None) -> Iterator[slice]:
        """Cut rows into chunks; the logits of one chunk exist at a time."""
        size = head_chunk(chunk, len(self.weight_VH), gpu=self.weight_VH.is_cuda)
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
        """Propagate the gradient with respect to the logits of some rows, `[n, V]`, to the head's inputs."""
        if self.bias_V is not None:
            self.bias_V += residual_NV.sum(dim=0)
        # The bias sums before this cast. The two products run in the weight's precision, where tensor cores
        # are fast.
        residual_NV = residual_NV.to(self.head.weight_VH.dtype)
        hidden_NH = self.head.hidden_NH[rows]
        if self.hidden_NH is not None:
            self.hidden_NH[rows] = residual_NV @ self.head.weight_VH
        if self._want_weight:
            self._add_to_weight(residual_NV, hidden_NH)

    def _add_to_weight(self, residual_NV: Tensor, hidden_NH: Tensor) -> None:
        if self._weight_VH is None:
            # The first product becomes the accumulator: zeros would be one more V x H buffer to fill and to
            # add to.
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
        """Return the gradients in the precision of their inputs, so that bfloat16 halves their memory."""
        weight_VH = self.head.weight_VH
        # A rank without rows still hands a gradient to DeepSpeed, whose hooks wait for one on every rank.
        if self._want_weight and self._weight_VH is None:
            self._weight_VH = torch.zeros_like(weight_VH)
        return self.hidden_NH, *(
            None if total is None else total.to(weight_VH.dtype) for total in (self._weight_VH, self.bias_V)
        )


class _PrecomputedGradients(torch.autograd.Function):
    """Connects a scalar to inputs whose gradients were computed in the forward pass.

    The backward pass only scales the gradients. The weight itself is not saved: ZeRO-3 frees it after the
    forward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, gradients: tuple[Tensor | None, ...], *inputs: Tensor | None
    ) -> Tensor:
        """Save the gradients and return the value unchanged."""
        ctx.gradients = gradients
        # A clone: autograd would turn an input that is returned as it is into a view of itself.
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the saved gradients in place and return them."""
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
    """Compute the loss and the statistics of a plan; `gradients` is filled along the way."""
    wholes = _whole_responses(head, plan)
    results = tuple(
        _run_term(head, plan, term, whole, gradients) for term, whole in zip(plan.terms, wholes, strict=True)
    )
    loss = sum(term.coefficient * result.loss for term, result in zip(plan.terms, results, strict=True))
    return torch.tensor(loss, dtype=head.dtype, device=head.hidden_NH.device), results


@dataclass(frozen=True)
class ResidualChunk:
    """The loss and its gradient at some rows of a term."""

    rows: slice
    """Rows of the packed forward pass."""
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
    """Yield the residuals that a training step would use, chunk by chunk, for the learning dynamics.

    Args:
        hidden_NH: Hidden states that predict the plan's targets, `[N, H]`.
        weight_VH: Weight of the head.
        bias_V: Bias of the head.
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
        # A KL term and a method on logits take a log-softmax of their own. All other losses share this one
        # softmax: a pass over the vocabulary is most of what a loss costs.
        softmax = (
            None if term.kind == "kl" or (term.kind == "forget" and logit_method) else softmax_of(logits_NV)
        )
        stats = TargetStats(
            token_logp(logits_NV, targets_N, softmax),
            term.sequence_N[mine],
            term.lengths_S,
            None if term.reference_logp_N is None else term.reference_logp_N[mine],
            whole.logp_S,
            whole.reference_logp_S,
        )
        yield ResidualChunk(
            rows, logits_NV, stats, *_losses(head, plan, term, whole, rows, logits_NV, stats, softmax)
        )
        # The generator keeps its locals alive while it is suspended: without this line the logits of two
        # chunks would exist at a time.
        del logits_NV, softmax


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
        del chunk  # the loop variable would keep this chunk's logits while the next ones are made
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
    softmax: Softmax | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss, residual and guard flag of each row of one chunk; the residual overwrites `softmax`."""
    targets_N, method = plan.targets_N[rows], METHODS[plan.forget.method]
    unguarded_N = torch.zeros_like(targets_N, dtype=torch.bool)
    if term.kind == "nll":
        return *nll_residual(logits_NV, targets_N, softmax), unguarded_N
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
    # Token beliefs suppress rephrasings of the forget response; a preferred answer is to be reinforced as it
    # is.
    if term.kind == "preferred" or plan.token_belief is None:
        return loss_N, target_residual(logits_NV, targets_N, weight_N, softmax), unguarded_N
    loss_extra_N, residual_NV, guarded_N = belief_residual(
        logits_NV, targets_N, weight_N, plan.token_belief, softmax
    )
    return loss_N + loss_extra_N, residual_NV, guarded_N


def _first_rows(term: HeadTerm, rows: slice) -> Tensor:
    """Return a mask of the rows that begin a response; the rows of one response are contiguous."""
    # Found over the whole term: a chunk may begin in the middle of a response.
    changed_N = torch.ones_like(term.sequence_N, dtype=torch.bool)
    changed_N[1:] = term.sequence_N[1:] != term.sequence_N[:-1]
    return changed_N[rows.start - term.rows.start : rows.stop - term.rows.start]


def _whole_responses(head: _Head, plan: HeadPlan) -> list[WholeResponses]:
    """Compute the per-response sums that each term's weights depend on.

    The sums take a pass over all rows of their own: the weight of the first chunk's rows depends on rows of
    later chunks.
    """
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
        # A retain term weighs every row alike, so its sums would be one more pass over the logits for
        # nothing.
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
