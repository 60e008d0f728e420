"""The catalogue of unlearning methods: formula, source, and what each method needs.

It does not import torch, so that the command line starts quickly. Tests compare it with the loss functions.
"""

from dataclasses import dataclass
from typing import Literal

Unit = Literal["tokens", "sequences", "later_tokens"]


@dataclass(frozen=True)
class MethodInfo:
    """A base method of unlearning."""

    name: str
    formula: str
    """The loss per forget example, minimised, in nats; S is the summed log-probability of the response."""
    paper: str
    unit: Unit
    """The count by which the loss, summed over all ranks, is divided.

    `later_tokens` leaves out the first token of each answer.
    """
    needs_reference: bool = False
    """Whether the loss reads log-probabilities of the original model, computed once per sweep."""
    reference_logits: bool = False
    """Whether the loss reads the original model's logits over the whole vocabulary.

    These take a forward pass of the original model at each step.
    """
    preferred_answers: bool = False
    """Whether every forget example comes with another, preferred answer."""
    activations: bool = False
    """Whether the loss is computed on a layer's activations.

    The layers above are not run then, so the retain loss is computed on activations too.
    """
    token_beliefs: bool = True
    """Whether token beliefs (BS-T) can be combined with the method: it must lower a target's probability."""


_PREFERRING = (
    "-2/beta * log sigmoid(beta * (margin of {} - margin of the response)), a margin being S - S of the"
    " original"
)

METHODS: dict[str, MethodInfo] = {
    "ga": MethodInfo("GA", "gradient ascent: S, and no retain loss", "arXiv 2510.19422 eq. 1", "tokens"),
    "graddiff": MethodInfo(
        "GradDiff", "gradient difference: S, plus the retain loss", "arXiv 2510.19422 eq. 2", "tokens"
    ),
    "npo": MethodInfo(
        "NPO", "-2/beta * log sigmoid(-beta * (S - S of the original))", "arXiv 2404.05868", "sequences", True
    ),
    "simnpo": MethodInfo(
        "SimNPO", "-2/beta * log sigmoid(beta * (-S/length - delta))", "arXiv 2410.07163", "sequences"
    ),
    "wga": MethodInfo(
        "WGA", "sum over tokens of p^alpha * log p, with p^alpha held fixed", "arXiv 2502.19301", "tokens"
    ),
    "tnpo": MethodInfo("TNPO", "NPO for each token by itself", "arXiv 2502.19301", "tokens", True),
    "wtnpo": MethodInfo(
        "WTNPO",
        "sum over tokens of TNPO's weight * p^alpha * log p, both held fixed",
        "arXiv 2502.19301",
        "tokens",
        True,
    ),
    "satimp": MethodInfo(
        "SatImp",
        "sum over tokens of p^beta1 * (1 - p)^beta2 * log p, with the weights held fixed",
        "arXiv 2505.11953",
        "tokens",
    ),
    "dpo": MethodInfo(
        "IdkDPO",
        _PREFERRING.format('an "I don\'t know"'),
        "arXiv 2401.06121",
        "sequences",
        True,
        preferred_answers=True,
    ),
    "altpo": MethodInfo(
        "AltPO",
        _PREFERRING.format("another answer of the original model"),
        "arXiv 2409.13474",
        "sequences",
        True,
        preferred_answers=True,
    ),
    "flat": MethodInfo(
        "FLAT",
        'minus an f-divergence between the mean token probabilities of an "I don\'t know" and of the'
        " response",
        "arXiv 2410.11143",
        "sequences",
        preferred_answers=True,
    ),
    "ceu": MethodInfo(
        "CE-U",
        "cross-entropy with the policy's own softmax without the target, held fixed",
        "arXiv 2503.01224",
        "later_tokens",
        token_beliefs=False,
    ),
    "undial": MethodInfo(
        "UNDIAL",
        "cross-entropy with the original's softmax, its logit of the target lowered by beta",
        "arXiv 2402.10052",
        "tokens",
        reference_logits=True,
        token_beliefs=False,
    ),
    "pdu": MethodInfo(
        "PDU",
        "(max logit - mean logit)^2 per token, with a dual variable that holds the retain loss down",
        "arXiv 2506.05314",
        "tokens",
        token_beliefs=False,
    ),
    "rmu": MethodInfo(
        "RMU",
        "mean squared distance of one layer's activations to a random direction",
        "arXiv 2403.03218",
        "sequences",
        token_beliefs=False,
        activations=True,
    ),
}
