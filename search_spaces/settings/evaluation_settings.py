"""The `evaluation:` block: what is measured beyond what one pass and one answer per item give."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from search_spaces.settings.base_settings import Settings
from search_spaces.settings.probe_settings import Probe, ProbeSettings


class EvaluationSettings(Settings):
    """Metrics that cost more than they always tell; all off unless asked for."""

    fluency: Literal["none", "perplexity", "gibberish"] = "none"
    """Whether answers about the forget set read like language: their perplexity under the original model, or
    how clean a classifier of gibberish finds them (`fluency`, `util` and `agg` of the paper)."""
    gibberish_model: str = "madhurjindal/autonlp-Gibberish-Detector-492513457"
    """The classifier: a folder or hub id of a text classification model with a label `clean`. The one of the
    published evaluations."""
    bands: Annotated[int, Field(ge=0)] = 0
    """Likelihood bands: follow, at every rung, what else the original model would have said to the first 48
    forget prompts. So many beam-searched candidates per prompt, split at 20 and 60 % by likelihood (10 is a
    good number); 0: none."""
    gradient_norm: bool = False
    """Attack membership by gradient norms too (`mia_gradient_norm`): a backward pass for every forget and
    holdout item."""
    probes: tuple[Probe, ...] = ()
    """Probes that are made at every rung, so that their metrics may be objectives or constraints: `leak`,
    `paraphrase`, `prefix`, `relearn`, `quantise`, `judge`. `lethe audit` makes them afterwards, on the front
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
