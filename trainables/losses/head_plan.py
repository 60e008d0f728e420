"""What the fused head is told about the rows of one packed forward, and what it answers.

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

    Whole responses only: a method may weigh a row by its response.
    """

    rows: slice
    """Rows of the packed forward."""
    kind: str
    """`forget` (the plan's method, with token beliefs where the plan has them), `preferred` (the answers that
    such a method prefers; at most one such term, after those of the forget set), `nll`, `kl` or `activations`
    (with a plan that steers)."""
    coefficient: float
    """The term's weight, already divided by the global count of tokens or sequences. Preferred answers count
    with their pairs."""
    sequence_N: Tensor
    """Index of each row's response within this term."""
    lengths_S: Tensor
    """Answer tokens of each response."""
    reference_logp_N: Tensor | None = None
    """Log-probability of each target under the reference in nats, for methods that need it."""
    partner_S: Tensor | None = None
    """Of a `forget` term: which response of the `preferred` term each of its responses is paired with."""


@dataclass(frozen=True)
class Steering:
    """Where activations are taken, and where those of the forget set are to go."""

    layer: int
    """Decoder layer, from 0, whose output counts."""
    target_H: Tensor
    """The vector that they are steered to."""


@dataclass(frozen=True)
class HeadPlan:
    """How every row of one packed forward counts in the loss. Its tensors may be on any device."""

    targets_N: Tensor
    """The answer tokens."""
    terms: tuple[HeadTerm, ...]
    """In order of rows, without overlap. Rows of no term have no gradient."""
    forget: ForgetSettings = field(default_factory=ForgetSettings)
    """Method of the `forget` terms."""
    token_belief: TokenBeliefSettings | None = None
    """Token beliefs of the `forget` terms; None: none."""
    chunk: int | None = None
    """Rows whose logits exist at a time; None: chosen by the device. Changes memory and speed, not the
    result."""
    reference: tuple[Tensor, Tensor] | None = None
    """Hidden states `[N, H]` and head weight `[V, H]` of the reference, for `kl` terms and methods that
    compare whole rows of logits."""
    reference_bias_V: Tensor | None = None
    """Bias of the reference's head, where the policy's head has one."""
    steering: Steering | None = None
    """For methods that work on activations: then `reference` holds those of the reference, and no head is
    run."""

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
            # Asked on the CPU only: looking at numbers of a GPU waits for everything before them.
            assert term.lengths_S.is_cuda or int(term.lengths_S.sum()) == len(term.sequence_N), (
                "a term holds whole responses"
            )

    def to(self, device: torch.device) -> Self:
        """The same plan on a device."""
        reference = self.reference and (self.reference[0].to(device), self.reference[1].to(device))
        steering = self.steering and replace(self.steering, **_tensors(self.steering, device))
        terms = tuple(replace(term, **_tensors(term, device)) for term in self.terms)
        return replace(self, **_tensors(self, device), terms=terms, reference=reference, steering=steering)


@dataclass(frozen=True)
class TermStats:
    """What one term came to, over its rows of this call; nothing is divided by a count."""

    loss: float
    """Sum of the losses in nats, without the coefficient."""
    target_logp_nats: float
    """Sum of the log-probabilities of the targets."""
    rows: int
    """Number of rows."""
    guarded_rows: int
    """Rows at which the guard shrank the belief."""
    sequence_logp_S: Tensor
    """Log-probability of each response in nats, float64."""


@dataclass(frozen=True)
class HeadOutput:
    """The loss of a plan, and what its terms came to."""

    loss: Tensor
    """Scalar in nats. Its backward gives exact gradients of hidden states, weight and bias; it works once."""
    terms: tuple[TermStats, ...]
    """In the order of the plan's terms."""


def _tensors(record: Any, device: torch.device) -> dict[str, Any]:
    return {
        item.name: value.to(device)
        for item in fields(record)
        if isinstance(value := getattr(record, item.name), Tensor)
    }
