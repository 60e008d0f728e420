"""The `trial:` block: all settings of one unlearning trial. Keys of the space are dotted fields of it."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from search_spaces.settings.base_settings import NonNegative, Positive, PositiveInt, Settings, Share
from search_spaces.settings.forget_settings import ForgetSettings, RetainSettings

Beliefs = Literal["none", "token", "sequence", "token+sequence"]


class OptimizerSettings(Settings):
    """The optimizer and its schedule."""

    method: Literal["adamw", "second_order"] = "adamw"
    """AdamW, or a step that is divided by a diagonal curvature and clipped (Sophia, as used in SOUL)."""
    rho: Positive = 0.04
    """`second_order`: weight of the curvature; smaller is closer to sign descent at the learning rate."""
    learning_rate: Positive = 1e-5
    """Peak learning rate."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the first moment."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the second moment."""
    warmup_epochs: NonNegative = 1.0
    """Epochs of linear warm-up; a fraction is fine."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Decay of the rate after warm-up, to zero at the end (`constant`: none)."""
    global_batch: PositiveInt = 32
    """Forget examples per optimizer step, over all workers. As many retain examples go with them."""
    micro_batch: PositiveInt = 8
    """Forget examples per forward pass and worker: lower it if memory runs out, results stay the same."""
    gradient_clip: NonNegative = 1.0
    """Largest global gradient norm; 0 turns clipping off."""


class TokenBeliefSettings(Settings):
    """BS-T: the model's own top tokens at each answer position are suppressed along with the target."""

    weight: Share = 0.2
    """Share of the belief in the target mixture (lambda)."""
    top_k: PositiveInt = 20
    """Most tokens in the belief."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus: of the top tokens, the fewest most likely ones that have this mass at the belief's
    temperature; 1: all of them."""
    temperature: Positive = 1.0
    """Temperature of the belief's softmax."""
    exclude_target: bool = False
    """Leave the target token out of the belief."""
    guard_target: bool | None = None
    """Never let a belief reinforce the target token. Left out: on if the temperature is not 1 or the target
    is excluded."""

    @property
    def guards(self) -> bool:
        """Whether the guard is on, after its default is resolved."""
        if self.guard_target is not None:
            return self.guard_target
        # At temperature 1 a target among the top tokens has at least the policy's probability in the belief,
        # which then cannot reinforce it. The published form has no guard.
        return self.temperature != 1.0 or self.exclude_target


class SequenceBeliefSettings(Settings):
    """BS-S: responses that the model itself generates for the forget prompts are suppressed too."""

    weight: Share = 0.5
    """Share of the sampled responses in the forget loss (lambda_s)."""
    search: Literal["sample", "beam"] = "sample"
    """Sample responses, or take the most likely ones that beam search finds; `temperature`, `top_k` and
    `top_p` apply to sampling."""
    num_samples: PositiveInt = 3
    """Responses per forget prompt; for beam search, the number of beams too."""
    temperature: Positive = 1.0
    """Sampling temperature."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Sample from the k most likely tokens only; 0: all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the smallest set of tokens with this mass; 1: all."""
    max_new_tokens: PositiveInt = 200
    """Longest response in tokens."""
    refresh_epochs: NonNegative = 1.0
    """Sample again after so many epochs (on-policy); 0: once, before training (off-policy)."""


class LoraSettings(Settings):
    """Low-rank adapters (LoRA): the weights are frozen, and each linear layer learns a low-rank addition.

    The adapters are merged into the weights wherever these are written. If rank or modules change between two
    trials, a lane rebuilds its engine.
    """

    rank: Annotated[int, Field(ge=0)] = 0
    """Width of the adapters; 0: none, and the weights themselves are trained."""
    alpha: Positive = 32.0
    """The adapters' product is scaled by alpha / rank."""
    modules: list[str] = Field(default_factory=list)
    """Names of the linear layers with an adapter (`q_proj`, `down_proj`, ...); all but the output head when
    left out."""


class EngineSettings(Settings):
    """Settings of memory and speed, which change no result beyond floating-point summation."""

    activation_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    inference: Literal["gathered", "lockstep"] = "gathered"
    """Evaluation and sampling: on a full copy of the weights per worker, or on the sharded model in lock-step
    if a copy does not fit."""
    head_chunk_tokens: PositiveInt | None = None
    """Answer tokens whose logits exist at the same time in the fused head; left out: as many as fit into 2
    GiB on a GPU, 256 MiB on a CPU."""
    cuda_graphs: bool = True
    """On a GPU, replay one captured CUDA graph per generated token if `inference` is `gathered` and the model
    allows it."""
    evaluation_batch: PositiveInt = 32
    """Sequences per forward pass and worker in evaluation and sampling."""


class TrialSettings(Settings):
    """One unlearning trial."""

    seed: int = 0
    """Seed of the order of batches, the pairing and the sampled beliefs."""
    epochs: PositiveInt = 10
    """Passes over the forget set."""
    steps: PositiveInt | None = None
    """Optimizer steps, instead of epochs."""
    rungs: PositiveInt = 1
    """Number of evaluations, evenly spread over the steps; the last one is at the end."""
    optimizer: OptimizerSettings = OptimizerSettings()
    forget: ForgetSettings = ForgetSettings()
    retain: RetainSettings = RetainSettings()
    beliefs: Beliefs = "none"
    """Which beliefs are suppressed along with the forget set."""
    token_belief: TokenBeliefSettings = TokenBeliefSettings()
    sequence_belief: SequenceBeliefSettings = SequenceBeliefSettings()
    lora: LoraSettings = LoraSettings()
    trained: list[str] = Field(default_factory=list)
    """Patterns (regular expressions for whole names) of the parameters that are trained; all when left out.
    Not with `lora`."""
    engine: EngineSettings = EngineSettings()
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """Passed through to DeepSpeed's configuration; batch sizes, optimizer, precision and the ZeRO stage
    belong to Lethe."""

    @property
    def token_beliefs(self) -> bool:
        """Whether BS-T is on."""
        return "token" in self.beliefs.split("+")

    @property
    def sequence_beliefs(self) -> bool:
        """Whether BS-S is on."""
        return "sequence" in self.beliefs.split("+")

    @model_validator(mode="after")
    def _trains_one_way(self) -> Self:
        for pattern in self.trained:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"trained: {pattern!r} is not a regular expression: {error}") from error
        if self.trained and self.lora.rank:
            raise ValueError(
                "trained: adapters are all that lora trains; leave `trained` out, or set lora.rank to 0"
            )
        return self

    @model_validator(mode="after")
    def _lethe_owns_these(self) -> Self:
        # Lethe derives these keys from its own settings; a second value would contradict them.
        owned = {
            "train_batch_size",
            "train_micro_batch_size_per_gpu",
            "gradient_accumulation_steps",
            "gradient_clipping",
            "optimizer",
            "scheduler",
            "fp16",
            "bf16",
        }
        taken = sorted(owned & self.deepspeed.keys())
        if taken:
            raise ValueError(
                f"deepspeed: {', '.join(taken)} belong to Lethe: use trial.optimizer and model.dtype"
            )
        if self.deepspeed.get("zero_optimization", {}).get("stage", 3) != 3:
            raise ValueError("deepspeed.zero_optimization.stage is 3, always")
        return self
