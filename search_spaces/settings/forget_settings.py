"""What is forgotten and what is retained: one block of settings per unlearning method."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from search_spaces.settings.base_settings import NonNegative, Positive, PositiveInt, Settings

Method = Literal[
    "ga",
    "graddiff",
    "npo",
    "simnpo",
    "wga",
    "tnpo",
    "wtnpo",
    "satimp",
    "dpo",
    "altpo",
    "flat",
    "ceu",
    "undial",
    "pdu",
    "rmu",
]


Divergence = Literal[
    "total_variation",
    "kl",
    "reverse_kl",
    "jeffrey",
    "squared_hellinger",
    "pearson",
    "neyman",
    "jensen_shannon",
]


class NpoSettings(Settings):
    """Negative preference optimisation (BS eq. 3)."""

    beta: Positive = 0.1
    """Inverse temperature: small is close to gradient ascent."""


class SimNpoSettings(Settings):
    """Reference-free NPO with length normalisation."""

    beta: Positive = 4.5
    """Inverse temperature."""
    delta: float = 0.0
    """Margin in nats per token."""


class WgaSettings(Settings):
    """Weighted gradient ascent (BS eq. 4)."""

    alpha: NonNegative = 1.0
    """Exponent of the token probability that weighs each token."""


class TnpoSettings(Settings):
    """NPO token by token."""

    beta: Positive = 4.0
    """Inverse temperature."""


class WtnpoSettings(Settings):
    """NPO token by token, weighted by the token's probability."""

    beta: Positive = 0.1
    """Inverse temperature."""
    alpha: NonNegative = 1.0
    """Exponent of the token probability that weighs each token; 0 is TNPO."""


class SatImpSettings(Settings):
    """Tokens weighed by how saturated and by how important they are."""

    beta1: NonNegative = 5.0
    """Exponent of the token probability."""
    beta2: NonNegative = 1.0
    """Exponent of one minus the token probability."""


class DpoSettings(Settings):
    """Preference optimisation: an "I don't know" answer is preferred to the response."""

    beta: Positive = 0.1
    """Inverse temperature."""


class AltPoSettings(Settings):
    """Preference optimisation: another answer that the original model gives is preferred to the response."""

    beta: Positive = 0.1
    """Inverse temperature."""


class FlatSettings(Settings):
    """An f-divergence between the mean token probabilities of an "I don't know" answer and of the
    response."""

    divergence: Divergence = "total_variation"
    """Which one is maximised."""


class UndialSettings(Settings):
    """Distillation from the original model whose logit of the target is lowered."""

    beta: Positive = 10.0
    """By how much it is lowered."""


class DualSettings(Settings):
    """`pdu`: a dual variable, in place of a fixed `retain.weight`, holds the retain loss down."""

    allowed_nats: NonNegative = 0.3
    """The retain loss that is allowed; the dual variable, which starts at `retain.weight`, rises while there
    is more."""
    step: NonNegative = 1.0
    """By how much the dual variable changes per optimizer step and nat."""
    warmup_epochs: NonNegative = 0.0
    """Epochs before it changes at all; a fraction is fine."""


class SteeringSettings(Settings):
    """`rmu`: activations on the forget set are steered to one random direction."""

    layer: Annotated[int, Field(ge=0)] | None = None
    """Decoder layer, from 0, whose output is steered; the forward pass ends there. Left out: 7, or half the
    depth where that is less."""
    coefficient: Positive = 2.0
    """Length of the vector that activations are steered to."""


class PreferredSettings(Settings):
    """The answers that `dpo`, `altpo` and `flat` teach in place of the forgotten ones, each example's in
    turn, one per epoch."""

    answers: str | None = None
    """`dpo`, `flat`: a text file, one "I don't know" answer per line; a built-in list when left out."""
    per_example: PositiveInt = 5
    """Answers per forget example: drawn from the list, or sampled from the original model (`altpo`)."""
    temperature: Positive = 1.0
    """`altpo`: sampling temperature."""
    max_new_tokens: PositiveInt = 200
    """`altpo`: longest answer in tokens."""
    instruction: str | None = None
    """`altpo`: what the original model is asked, with {prompt} and {response} in it; the forget prompt alone
    when left out."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.instruction is not None and "{prompt}" not in self.instruction:
            raise ValueError("instruction needs {prompt}, where the forget prompt goes")
        return self


class ForgetSettings(Settings):
    """What pushes the forget set down: one method and its own block."""

    method: Method = "npo"
    """Base method."""
    weight: NonNegative = 1.0
    """Weight of the forget loss."""
    npo: NpoSettings = NpoSettings()
    simnpo: SimNpoSettings = SimNpoSettings()
    wga: WgaSettings = WgaSettings()
    tnpo: TnpoSettings = TnpoSettings()
    wtnpo: WtnpoSettings = WtnpoSettings()
    satimp: SatImpSettings = SatImpSettings()
    dpo: DpoSettings = DpoSettings()
    altpo: AltPoSettings = AltPoSettings()
    flat: FlatSettings = FlatSettings()
    undial: UndialSettings = UndialSettings()
    dual: DualSettings = DualSettings()
    steering: SteeringSettings = SteeringSettings()
    preferred: PreferredSettings = PreferredSettings()


class RetainSettings(Settings):
    """What holds the rest in place. `ga` ignores it: gradient ascent has no retain loss by definition."""

    loss: Literal["nll", "kl", "activations", "none"] = "nll"
    """Negative log-likelihood, or KL(reference || policy) on the answer tokens; `rmu`: distance to the
    original's activations."""
    weight: NonNegative = 1.0
    """Weight of the retain loss."""
