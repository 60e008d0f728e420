"""Losses on activations (RMU): those of the forget set go to one random direction, those of the retain set
stay where they were.

Shape suffixes: N rows (answer tokens), S sequences (responses), H hidden size.
"""

import torch
from torch import Tensor

from trainables.losses.head_plan import HeadOutput, HeadPlan, HeadTerm, TermStats

DEFAULT_LAYER = 7
"""As published for models of 16 and of 32 layers."""


def steered_layer(layer: int | None, depth: int) -> int:
    """The layer that is meant, of a model of so many."""
    return min(DEFAULT_LAYER, depth // 2) if layer is None else layer


def random_direction(size: int, coefficient: float, seed: int) -> Tensor:
    """The vector that a trial steers to: fixed by its seed, of length `coefficient`, all its entries positive
    as in the published code."""
    vector_H = torch.rand(size, generator=torch.Generator().manual_seed(seed % 2**63), dtype=torch.float64)
    return coefficient * vector_H / vector_H.norm()


def steer(activations_NH: Tensor, plan: HeadPlan) -> HeadOutput:
    """Loss of all answer rows of one packed forward, left to autograd: `mean over H of (h - target)^2`,
    averaged over each response.

    Args:
        activations_NH: Of the policy. None at all give a zero loss that still has gradients.
        plan: With `steering`; `forget` terms are steered, `activations` terms are held to those of
            `plan.reference`.

    Source: RMU, arXiv 2403.03218, and OU. Deviation: OU divides `[b]` by `[b, 1]`, which mixes the lengths of
    a batch's responses.
    """
    plan = plan.to(activations_NH.device)
    results = [_run_term(activations_NH, plan, term) for term in plan.terms]
    loss = activations_NH.sum() * 0.0  # connects a rank without rows to the graph
    for term, (term_loss, _) in zip(plan.terms, results, strict=True):
        loss = loss + term.coefficient * term_loss
    return HeadOutput(loss, tuple(stats for _, stats in results))


def _run_term(activations_NH: Tensor, plan: HeadPlan, term: HeadTerm) -> tuple[Tensor, TermStats]:
    assert plan.steering is not None and term.kind in ("forget", "activations"), (
        "this plan steers nothing, or a term needs a head"
    )
    rows_NH = activations_NH[term.rows].to(torch.promote_types(activations_NH.dtype, torch.float32))
    target: Tensor = plan.steering.target_H
    if term.kind == "activations":
        assert plan.reference is not None, "activations are held to those of the reference"
        target = plan.reference[0][term.rows]
    distance_N = (rows_NH - target.to(rows_NH.dtype)).square().mean(dim=-1)
    loss = (distance_N / term.lengths_S[term.sequence_N]).sum()
    nothing_S = torch.zeros(len(term.lengths_S), dtype=torch.float64, device=activations_NH.device)
    return loss, TermStats(float(loss.detach()), 0.0, len(term.sequence_N), 0, nothing_S)
