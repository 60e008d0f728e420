"""What methods there are, in words. Torch-free, so that the command line answers at once; tests hold it
against the code."""

from dataclasses import dataclass
from typing import Literal

Unit = Literal["tokens", "sequences", "later_tokens"]


@dataclass(frozen=True)
class MethodInfo:
    """A base method: what its loss is, and what it is divided by."""

    name: str
    formula: str
    """The loss per forget example, minimised, in nats; S is the summed log-probability of the response."""
    paper: str
    unit: Unit
    """What the summed loss is divided by, once, over all ranks; `later_tokens` leaves out the first of each
    answer."""
    needs_reference: bool = False
    """Whether it reads log-probabilities of the original model, computed once per sweep."""
    reference_logits: bool = False
    """Whether it compares whole rows of logits with the original model's, which takes a forward pass of that
    at each step."""
    preferred_answers: bool = False
    """Whether another answer goes with every forget example."""
    activations: bool = False
    """Whether it works on activations, above which nothing is run: then so does its retain loss."""
    token_beliefs: bool = True
    """Whether BS-T composes with it: it does where a target is pushed down."""


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
