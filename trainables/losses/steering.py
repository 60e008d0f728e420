"""Loss on activations (RMU): steers the forget set to a random vector and holds the retain set in place.

Shape suffixes: N rows (answer tokens), S sequences (responses), H hidden size.
"""

import torch
from torch import Tensor

from trainables.losses.head_plan import HeadOutput, HeadPlan, HeadTerm, TermStats

DEFAULT_LAYER = 7
"""The layer published for models of 16 and of 32 layers."""


def steered_layer(layer: int | None, depth: int) -> int:
    """Return the steered layer of a model with `depth` layers: the given one, or the default."""
    # A model too shallow for the published layer is steered at its middle.
    return min(DEFAULT_LAYER, depth // 2) if layer is None else layer


def random_direction(size: int, coefficient: float, seed: int) -> Tensor:
    """Draw the vector `[H]` that a trial steers to: of length `coefficient`, fixed by the seed.

    All entries are positive, as in the published code.
    """
    # On the CPU and in float64, so that the vector is the same on every device and rank.
    vector_H = torch.rand(size, generator=torch.Generator().manual_seed(seed % 2**63), dtype=torch.float64)
    direction_H: Tensor = coefficient * vector_H / vector_H.norm()
    return direction_H


def steer(activations_NH: Tensor, plan: HeadPlan) -> HeadOutput:
    """Compute the loss of all answer rows: `mean over H of (h - target)^2`, averaged over each response.

    Args:
        activations_NH: Activations of the policy, with their autograd graph. With N = 0 the loss is zero and
            still has gradients.
        plan: A plan with `steering`; `forget` terms are steered to its target, `activations` terms to the
            activations in `plan.reference`.

    Source: RMU, arXiv 2403.03218, and OU. Deviation: OU divides `[b]` by `[b, 1]`, which mixes the lengths of
    a batch's responses.
    """
    plan = plan.to(activations_NH.device)
    results = [_run_term(activations_NH, plan, term) for term in plan.terms]
    # A zero that depends on the activations: a rank without rows must enter the backward pass too, or the
    # others wait for it in a collective.
    loss = activations_NH.sum() * 0.0
    for term, (term_loss, _) in zip(plan.terms, results, strict=True):
        loss = loss + term.coefficient * term_loss
    return HeadOutput(loss, tuple(stats for _, stats in results))


def _run_term(activations_NH: Tensor, plan: HeadPlan, term: HeadTerm) -> tuple[Tensor, TermStats]:
    assert plan.steering is not None and term.kind in ("forget", "activations"), (
        "this plan steers nothing, or a term needs a head"
    )
    # Squares of bfloat16 differences keep three digits; float32 costs one buffer of `[N, H]`.
    rows_NH = activations_NH[term.rows].to(torch.promote_types(activations_NH.dtype, torch.float32))
    target: Tensor = plan.steering.target_H
    if term.kind == "activations":
        assert plan.reference is not None, "activations are held to those of the reference"
        target = plan.reference[0][term.rows]
    distance_N = (rows_NH - target.to(rows_NH.dtype)).square().mean(dim=-1)
    loss = (distance_N / term.lengths_S[term.sequence_N]).sum()
    # No head runs, so there are no log-probabilities to report.
    nothing_S = torch.zeros(len(term.lengths_S), dtype=torch.float64, device=activations_NH.device)
    return loss, TermStats(float(loss.detach()), 0.0, len(term.sequence_N), 0, nothing_S)
