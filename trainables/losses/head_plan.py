"""Inputs and outputs of the fused head: how each row of a packed forward pass counts in the loss.

Shape suffixes: N rows (answer tokens), S sequences (responses), V vocabulary, H hidden size.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from search_spaces.settings.forget_settings import ForgetSettings
from search_spaces.settings.trial_settings import TokenBeliefSettings

KINDS = ("forget", "preferred", "nll", "kl", "activations")


@dataclass(frozen=True)
class HeadTerm:
    """One summand of the loss: a coefficient times the sum of one kind of loss over a range of rows.

    A term holds whole responses only, since a method may weigh a row by its whole response.
    """

    rows: slice
    """Rows of the packed forward pass."""
    kind: str
    """Loss of the rows.

    `forget` is the plan's method, with token beliefs where the plan has them; `preferred` marks the answers
    that a preference method prefers (at most one such term, after those of the forget set); the others are
    `nll`, `kl`, and `activations` (with a plan that steers).
    """
    coefficient: float
    """The term's weight, already divided by the global count of tokens or sequences.

    A `preferred` term has 1: its rows are weighted through their pairs.
    """
    sequence_N: Tensor
    """Index of each row's response within this term."""
    lengths_S: Tensor
    """Number of answer tokens of each response."""
    reference_logp_N: Tensor | None = None
    """Log-probability of each target under the reference in nats, for methods that need it."""
    partner_S: Tensor | None = None
    """For a `forget` term of a preference method: index of each response's pair in the `preferred` term."""


@dataclass(frozen=True)
class Steering:
    """The layer whose activations an activation method changes, and their target."""

    layer: int
    """Index of the decoder layer, from 0, whose output the loss looks at."""
    target_H: Tensor
    """The vector that activations of the forget set are steered to."""


@dataclass(frozen=True)
class HeadPlan:
    """How every row of one packed forward pass counts in the loss. Its tensors may be on any device."""

    targets_N: Tensor
    """The answer tokens."""
    terms: tuple[HeadTerm, ...]
    """Terms in order of rows, without overlap. Rows outside every term have no gradient."""
    forget: ForgetSettings = field(default_factory=ForgetSettings)
    """Method of the `forget` terms."""
    token_belief: TokenBeliefSettings | None = None
    """Token beliefs of the `forget` terms; None: none."""
    chunk: int | None = None
    """Rows whose logits exist at a time; None: chosen by the device. It changes memory and speed only."""
    reference: tuple[Tensor, Tensor] | None = None
    """Hidden states `[N, H]` and head weight `[V, H]` of the reference model.

    `kl` terms and methods that compare whole rows of logits need them.
    """
    reference_bias_V: Tensor | None = None
    """Bias of the reference's head, where the policy's head has one."""
    steering: Steering | None = None
    """Target of an activation method. With it, `reference` holds activations, and no head runs."""

    def __post_init__(self) -> None:
        end = 0
        for term in self.terms:
            assert term.kind in KINDS, f"a term's kind is one of {', '.join(KINDS)}"
            assert end <= term.rows.start <= term.rows.stop <= len(self.targets_N), (
                "terms are in order of rows, without overlap"
            )
            end = term.rows.stop
            assert len(term.sequence_N) == term.rows.stop - term.rows.start, (
                "every row of a term belongs to a response"
            )
            # Checked on the CPU only: reading a value from a GPU waits for all kernels that are still queued.
            assert term.lengths_S.is_cuda or int(term.lengths_S.sum()) == len(term.sequence_N), (
                "a term holds whole responses"
            )

    def to(self, device: torch.device) -> Self:
        """Return a copy of the plan with its tensors on a device."""
        # Tensors inside tuples and nested records are not fields of the plan itself, so each is moved by
        # name.
        reference = self.reference and (self.reference[0].to(device), self.reference[1].to(device))
        steering = self.steering and replace(self.steering, **_tensors(self.steering, device))
        terms = tuple(replace(term, **_tensors(term, device)) for term in self.terms)
        return replace(self, **_tensors(self, device), terms=terms, reference=reference, steering=steering)


@dataclass(frozen=True)
class TermStats:
    """Sums of one term over the rows of this call, not divided by any count."""

    loss: float
    """Sum of the losses in nats, without the coefficient."""
    target_logp_nats: float
    """Sum of the log-probabilities of the targets in nats."""
    rows: int
    """Number of rows."""
    guarded_rows: int
    """Number of rows at which the guard shrank the token belief."""
    sequence_logp_S: Tensor
    """Log-probability of each response in nats, float64."""


@dataclass(frozen=True)
class HeadOutput:
    """The loss of a plan, and the statistics of its terms."""

    loss: Tensor
    """Scalar in nats. Its backward pass gives exact gradients of the head's inputs, and runs once."""
    terms: tuple[TermStats, ...]
    """In the order of the plan's terms."""


def _tensors(record: Any, device: torch.device) -> dict[str, Any]:
    return {
        item.name: value.to(device)
        for item in fields(record)
        if isinstance(value := getattr(record, item.name), Tensor)
    }
