"""The catalogue of unlearning methods: formula, source, kind, and what each method needs.

These facts are stated only here. Checks, capacity planning, the generated METHODS.md and the losses in
`trainables/losses` read them. The module does not import torch, so that the command line starts quickly.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Literal

Kind = Literal["target", "preference", "logits", "activations"]
"""The input of the loss, which decides the shape of its residual.

- `target`: log-probabilities of the forget tokens.
- `preference`: scores of a response and of the answer that is preferred to it.
- `logits`: whole rows of logits.
- `activations`: the activations of one layer.
"""
Unit = Literal["tokens", "sequences", "later_tokens"]
"""Unit of a published average: answer tokens, responses, or answer tokens but the first of each response."""
Preferred = Literal["unknowing", "sampled"]
"""Source of preferred answers: a list of "I don't know" lines, or samples of the original model."""
Score = Literal["log_ratio", "mean_probability"]
"""Score of a response: S - S of the original model in nats, or the mean probability of its tokens."""


@dataclass(frozen=True)
class MethodInfo:
    """A base method of unlearning."""

    name: str
    """Name for people, as in the publication."""
    formula: str
    """The loss per forget example, minimised, in nats; S is the summed log-probability of the response."""
    paper: str
    kind: Kind
    unit: Unit
    """The loss, summed over all ranks, is divided by the count of this unit."""
    _: KW_ONLY
    needs_reference: bool = False
    """Whether the loss reads log-probabilities of the original model, computed once per sweep."""
    needs_reference_logits: bool = False
    """Whether the loss reads the original model's logits over the whole vocabulary.

    These take a forward pass of the original model at each step.
    """
    needs_whole_responses: bool = False
    """Whether the weight of a token depends on its whole response.

    The head then computes the log-probabilities of a micro-batch before its residuals.
    """
    preferred: Preferred | None = None
    """Source of the preferred answers; None unless the kind is `preference`."""
    score: Score | None = None
    """Score of a response; None unless the kind is `preference`."""

    @property
    def token_beliefs(self) -> bool:
        """Whether token beliefs (BS-T) can be combined with the method.

        They replace a target that is lowered, which whole rows of logits and activations do not have.
        """
        return self.kind in ("target", "preference")

    @property
    def preferred_answers(self) -> bool:
        """Whether every forget example comes with another, preferred answer."""
        return self.kind == "preference"

    @property
    def activations(self) -> bool:
        """Whether the loss is computed on a layer's activations.

        The layers above are not run then, so the retain loss is computed on activations too.
        """
        return self.kind == "activations"


_PREFERENCE = (
    "-2/beta * log sigmoid(beta * (margin of {} - margin of the response)), a margin being S - S of the"
    " original"
)

METHODS: dict[str, MethodInfo] = {
    "ga": MethodInfo(
        "GA", "gradient ascent: S, and no retain loss", "arXiv 2510.19422 eq. 1", "target", "tokens"
    ),
    "graddiff": MethodInfo(
        "GradDiff",
        "gradient difference: S, plus the retain loss",
        "arXiv 2510.19422 eq. 2",
        "target",
        "tokens",
    ),
    "npo": MethodInfo(
        "NPO",
        "-2/beta * log sigmoid(-beta * (S - S of the original))",
        "arXiv 2404.05868",
        "target",
        "sequences",
        needs_reference=True,
        needs_whole_responses=True,
    ),
    "simnpo": MethodInfo(
        "SimNPO",
        "-2/beta * log sigmoid(beta * (-S/length - delta))",
        "arXiv 2410.07163",
        "target",
        "sequences",
        needs_whole_responses=True,
    ),
    "wga": MethodInfo(
        "WGA",
        "sum over tokens of p^alpha * log p, with p^alpha held fixed",
        "arXiv 2502.19301",
        "target",
        "tokens",
    ),
    "tnpo": MethodInfo(
        "TNPO", "NPO for each token by itself", "arXiv 2502.19301", "target", "tokens", needs_reference=True
    ),
    "wtnpo": MethodInfo(
        "WTNPO",
        "sum over tokens of TNPO's weight * p^alpha * log p, both held fixed",
        "arXiv 2502.19301",
        "target",
        "tokens",
        needs_reference=True,
    ),
    "satimp": MethodInfo(
        "SatImp",
        "sum over tokens of p^beta1 * (1 - p)^beta2 * log p, with the weights held fixed",
        "arXiv 2505.11953",
        "target",
        "tokens",
    ),
    "dpo": MethodInfo(
        "IdkDPO",
        _PREFERENCE.format('an "I don\'t know"'),
        "arXiv 2401.06121",
        "preference",
        "sequences",
        needs_reference=True,
        needs_whole_responses=True,
        preferred="unknowing",
        score="log_ratio",
    ),
    "altpo": MethodInfo(
        "AltPO",
        _PREFERENCE.format("another answer of the original model"),
        "arXiv 2409.13474",
        "preference",
        "sequences",
        needs_reference=True,
        needs_whole_responses=True,
        preferred="sampled",
        score="log_ratio",
    ),
    "flat": MethodInfo(
        "FLAT",
        'minus an f-divergence between the mean token probabilities of an "I don\'t know" and of the'
        " response",
        "arXiv 2410.11143",
        "preference",
        "sequences",
        needs_whole_responses=True,
        preferred="unknowing",
        score="mean_probability",
    ),
    # CE-U skips the first token of each response, so its average counts one token less per response.
    "ceu": MethodInfo(
        "CE-U",
        "cross-entropy with the policy's own softmax without the target, held fixed",
        "arXiv 2503.01224",
        "logits",
        "later_tokens",
    ),
    "undial": MethodInfo(
        "UNDIAL",
        "cross-entropy with the original's softmax, its logit of the target lowered by beta",
        "arXiv 2402.10052",
        "logits",
        "tokens",
        needs_reference_logits=True,
    ),
    "pdu": MethodInfo(
        "PDU",
        "(max logit - mean logit)^2 per token, with a dual variable that bounds the retain loss",
        "arXiv 2506.05314",
        "logits",
        "tokens",
    ),
    # RMU averages the distance over the tokens of each response, and then over responses.
    "rmu": MethodInfo(
        "RMU",
        "mean squared distance of one layer's activations to a random direction",
        "arXiv 2403.03218",
        "activations",
        "sequences",
    ),
}
