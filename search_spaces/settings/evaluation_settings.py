"""The `evaluation:` block: metrics that cost more than one forward pass and one answer per item."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from search_spaces.settings.base_settings import Settings
from search_spaces.settings.probe_settings import Probe, ProbeSettings


class EvaluationSettings(Settings):
    """Additional metrics and probes, which are all off by default because of their cost."""

    fluency: Literal["none", "perplexity", "gibberish"] = "none"
    """Fluency of answers about the forget set: their perplexity under the original model, or the score of a
    gibberish classifier (`fluency`, `util` and `agg` of the paper)."""
    gibberish_model: str = "madhurjindal/autonlp-Gibberish-Detector-492513457"
    """The gibberish classifier: a folder or hub id of a text classification model with a label `clean`. The
    default is that of the published evaluations."""
    bands: Annotated[int, Field(ge=0)] = 0
    """Likelihood bands: follow, at every rung, other answers of the original model to the first 48 forget
    prompts. The number of beam-searched candidates per prompt, split at 20 and 60 % by likelihood (10 is a
    good number); 0: none."""
    gradient_norm: bool = False
    """Also run the membership attack by gradient norms (`mia_gradient_norm`): a backward pass for every
    forget and holdout item."""
    probes: tuple[Probe, ...] = ()
    """Probes that are run at every rung, so that their metrics may be objectives or constraints: `leak`,
    `paraphrase`, `prefix`, `relearn`, `quantise`, `judge`. `lethe audit` runs them afterwards, on the front
    alone."""
    probe: ProbeSettings = ProbeSettings()

    @model_validator(mode="after")
    def _probes_fit(self) -> Self:
        if self.probe.leak.k > self.probe.leak.samples:
            raise ValueError(
                f"probe.leak.k ({self.probe.leak.k}) must be at most probe.leak.samples"
                f" ({self.probe.leak.samples})"
            )
        if "judge" in self.probes and self.probe.judge.url is None:
            raise ValueError(
                "the probe `judge` needs probe.judge.url: the address of an OpenAI-compatible endpoint"
            )
        return self
