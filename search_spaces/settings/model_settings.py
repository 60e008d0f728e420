"""The `model:` block: the target model, the retrained model, and how missing ones are prepared."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from search_spaces.settings.base_settings import NonNegative, Positive, PositiveInt, Settings


class ScratchSettings(Settings):
    """Shape of the small Llama that `base: scratch` builds, with a tokenizer that is trained on the data."""

    hidden_size: PositiveInt = 128
    """Width of the residual stream."""
    intermediate_size: PositiveInt = 384
    """Width of the feed-forward layers."""
    layers: PositiveInt = 4
    """Number of decoder layers."""
    heads: PositiveInt = 4
    """Attention heads; must divide hidden_size."""
    vocabulary: PositiveInt = 2048
    """Upper bound of the tokenizer's vocabulary."""
    tie_embeddings: bool = False
    """Share the input embedding with the output head."""
    seed: int = 0
    """Seed of the random initial weights."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.hidden_size % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide hidden_size ({self.hidden_size})")
        return self


class PrepareSettings(Settings):
    """Training of the target and the retrained model from `base`, if they are not given."""

    steps: PositiveInt = 600
    """Optimizer steps for each of the two models."""
    global_batch: PositiveInt = 64
    """Examples per optimizer step, over all workers."""
    micro_batch: PositiveInt = 64
    """Examples per forward pass and worker."""
    learning_rate: Positive = 2e-3
    """Peak learning rate."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay of AdamW."""
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    """Steps of linear warm-up; the rate then decays by a cosine to a tenth of the peak."""
    gradient_clip: NonNegative = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    seed: int = 0
    """Seed of the order of batches."""


class ModelSettings(Settings):
    """The models of a sweep: `target` (a folder or hub id), or `base`, from which the target is trained."""

    base: str | None = None
    """`scratch`, or a pretrained model that `lethe prepare` fine-tunes on the data: a folder or hub id."""
    target: str | None = None
    """The model to unlearn, which knows the forget set: a folder or hub id. Prepared from `base` when left
    out."""
    retrained: str | None = None
    """The model for comparison, which was trained without the forget set: a folder or hub id. Prepared from
    `base` when left out; none without a base."""
    revision: str | None = None
    """Revision of hub models (branch, tag or commit)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Working precision of weights and activations; the optimizer keeps float32 master weights."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention implementation of transformers."""
    system_prompt: str | None = None
    """System prompt of the chat template, as the target was trained with; none when left out."""
    trust_remote_code: bool = False
    """Run code that comes with a hub model. Off by default."""
    scratch: ScratchSettings = ScratchSettings()
    prepare: PrepareSettings = PrepareSettings()

    @model_validator(mode="after")
    def _has_a_target(self) -> Self:
        if self.base is None and self.target is None:
            raise ValueError(
                "give `target` (a model folder or hub id), or `base: scratch` to have one trained on the data"
            )
        return self
