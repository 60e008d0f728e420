"""The `forget:` and `retain:` blocks of a trial: one block of settings per unlearning method."""

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
    """Negative preference optimisation (NPO; BS eq. 3)."""

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
    """Exponent of the token probability, by which each token is weighted."""


class TnpoSettings(Settings):
    """NPO for each token separately."""

    beta: Positive = 4.0
    """Inverse temperature."""


class WtnpoSettings(Settings):
    """NPO for each token separately, weighted by the token's probability."""

    beta: Positive = 0.1
    """Inverse temperature."""
    alpha: NonNegative = 1.0
    """Exponent of the token probability, by which each token is weighted; 0 is TNPO."""


class SatImpSettings(Settings):
    """SatImp: tokens weighted by saturation and by importance."""

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
    """FLAT: an f-divergence between the mean token probabilities of an "I don't know" and of the response."""

    divergence: Divergence = "total_variation"
    """The f-divergence that is maximised."""


class UndialSettings(Settings):
    """UNDIAL: distillation from the original model with a lowered logit of the target."""

    beta: Positive = 10.0
    """The amount by which the logit is lowered."""


class DualSettings(Settings):
    """`pdu`: a dual variable instead of a fixed `retain.weight` bounds the retain loss."""

    allowed_nats: NonNegative = 0.3
    """The allowed retain loss; the dual variable, which starts at `retain.weight`, rises while the loss is
    larger."""
    step: NonNegative = 1.0
    """Change of the dual variable per optimizer step and nat."""
    warmup_epochs: NonNegative = 0.0
    """Epochs before the dual variable changes; a fraction is fine."""


class SteeringSettings(Settings):
    """`rmu`: activations on the forget set are steered towards a random direction."""

    layer: Annotated[int, Field(ge=0)] | None = None
    """Decoder layer, counted from 0, whose output is steered; the forward pass ends there. Left out: 7, or
    half the depth if that is less."""
    coefficient: Positive = 2.0
    """Length of the vector towards which activations are steered."""


class PreferredSettings(Settings):
    """The answers that `dpo`, `altpo` and `flat` teach instead of the forgotten ones, one per epoch."""

    answers: str | None = None
    """`dpo`, `flat`: a text file, one "I don't know" answer per line; a built-in list when left out."""
    per_example: PositiveInt = 5
    """Answers per forget example: drawn from the list, or sampled from the original model (`altpo`)."""
    temperature: Positive = 1.0
    """`altpo`: sampling temperature."""
    max_new_tokens: PositiveInt = 200
    """`altpo`: longest answer in tokens."""
    instruction: str | None = None
    """`altpo`: the prompt to the original model, with {prompt} and {response} in it; the forget prompt alone
    when left out."""

    @model_validator(mode="after")
    def _instruction_contains_the_prompt(self) -> Self:
        if self.instruction is not None and "{prompt}" not in self.instruction:
            raise ValueError("instruction needs {prompt}, where the forget prompt goes")
        return self


class ForgetSettings(Settings):
    """The forget loss: one method, and the settings of every method."""

    method: Method = "npo"
    """Base method."""
    weight: NonNegative = 1.0
    """Weight of the forget loss."""
    # One block per method with settings of its own, since a beta means something else in each. A block is
    # ignored unless `method` is its method.
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
    """The retain loss. `ga` ignores it: gradient ascent has no retain loss by definition."""

    loss: Literal["nll", "kl", "activations", "none"] = "nll"
    """Negative log-likelihood, or KL(reference || policy) on the answer tokens; `rmu`: distance to the
    original's activations."""
    weight: NonNegative = 1.0
    """Weight of the retain loss."""
