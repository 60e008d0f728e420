"""Memory of one rank of a trial under ZeRO-3, counted buffer by buffer from the code that allocates them. No
torch, no ray.

A trial goes through phases whose buffers do not exist together; its need is that of the worst. Every number
is in bytes. What is counted follows `trainables/engine/zero3_engine.py` and DeepSpeed 0.19's
`runtime/zero/stage3.py`; deviations are at most some per cent of the model. Offloading
(`deepspeed: {zero_optimization: {offload_*}}`) is not counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cluster.capacity.model_shapes import ModelShape
from cluster.capacity.trained_tensors import adapters, cut, trained_tensors
from search_spaces.catalogue.method_catalogue import METHODS
from search_spaces.settings.engine_defaults import head_chunk, reduce_bucket
from search_spaces.settings.model_settings import ModelSettings
from search_spaces.settings.trial_settings import TrialSettings

GIB = 1024**3
GATHER_ELEMENTS = 64 * 1024**2
"""As in `trainables/engine/zero3_engine.py`: whole tensors are put together in bundles of at least so many
elements."""
GPU_FRAMEWORK = 2 * GIB
"""CUDA context, NCCL's buffers, cuBLAS' workspace: 1.3 GiB on an H100 with one rank. The rest is for holes of
PyTorch's allocator, which held up to a quarter more than the peak there, and gives that up before it runs
out."""
CPU_FRAMEWORK = 77 * 1024**2
"""What a trial of a model without weights adds to a worker that has imported everything: modules loaded late,
code, data. Measured with a 32-wide model on two ranks."""
CPU_PROCESS = 560 * 1024**2
"""A worker before its engine: Python, torch, transformers, deepspeed. Measured."""

# DeepSpeed's defaults, which a trial's `deepspeed: zero_optimization` may change.
_PREFETCH_BUCKET = 50_000_000
_REUSE_DISTANCE = 1_000_000_000
_SUB_GROUP = 1_000_000_000

_LARGEST_HEAP_TENSOR = 32 * 1024**2
"""Bytes up to which glibc's malloc may take a tensor from its heap."""

# Of the fused AdamW: the flattened gradient in float32. Weights and moments are changed where they lie.
_STEP_BYTES = 4


@dataclass(frozen=True)
class Lengths:
    """Tokens of the longest example of a sweep, prompt and answer."""

    sequence: int
    """Prompt and answer together, chat template included."""
    prompt: int
    """The prompt alone: what a sampled response comes after."""


@dataclass(frozen=True)
class RankMemory:
    """What one rank needs, phase by phase."""

    phases: Mapping[str, Mapping[str, int]]
    """Phase -> part -> bytes; parts that are there in every phase are repeated in each."""

    @property
    def worst_phase(self) -> str:
        """The phase that needs most."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def parts(self) -> Mapping[str, int]:
        """Parts of the worst phase."""
        return self.phases[self.worst_phase]

    @property
    def peak(self) -> int:
        """Bytes of the worst phase."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class _Sizes:
    """What all phases are counted from."""

    shape: ModelShape
    trial: TrialSettings
    lengths: Lengths
    workers: int
    gpu: bool
    word: int
    """Bytes of a weight in working precision."""
    eager: bool

    @property
    def whole(self) -> int:
        """Bytes of the whole model in working precision."""
        return self.shape.parameters * self.word

    @property
    def shard(self) -> int:
        """Elements that this rank holds, those of adapters among them."""
        return self.shape.shard(self.workers) + cut(adapters(self.shape, self.trial), self.workers)

    @cached_property
    def trained(self) -> Mapping[str, int]:
        """Elements of each trained parameter."""
        return trained_tensors(self.shape, self.trial)

    @property
    def trained_shard(self) -> int:
        """Trained elements that this rank holds."""
        return cut(self.trained, self.workers)

    @property
    def trained_head(self) -> int:
        """Elements of the output head's gradient."""
        return self.trained.get("model.embed_tokens.weight" if self.shape.tied else "lm_head.weight", 0)

    @property
    def head_chunk(self) -> int:
        """Answer tokens whose logits exist at a time."""
        return head_chunk(self.trial.engine.head_chunk_tokens, self.shape.vocabulary, gpu=self.gpu)

    @property
    def gathered(self) -> bool:
        return self.trial.engine.inference == "gathered"

    @property
    def reference(self) -> bool:
        """Whether steps need the original model's logits."""
        return METHODS[self.trial.forget.method].reference_logits or (
            self.trial.retain.loss == "kl" and self.trial.forget.method != "ga"
        )

    def zero(self, key: str, default: int) -> int:
        """A setting of DeepSpeed's `zero_optimization` block."""
        block: Mapping[str, Any] = self.trial.deepspeed.get("zero_optimization", {})
        return int(block.get(key, default))

    @property
    def bucket(self) -> int:
        """Elements of the bucket in which gradients wait for their reduction: on a CPU only pages that are
        written to count."""
        trained = sum(self.trained.values())
        size = self.zero("reduce_bucket_size", reduce_bucket(trained))
        return size if self.gpu else min(size, trained)


def memory_of_rank(
    shape: ModelShape,
    model: ModelSettings,
    trial: TrialSettings,
    lengths: Lengths,
    workers: int,
    *,
    gpu: bool,
) -> RankMemory:
    """What one rank of a trial needs.

    Args:
        shape: Sizes of the model.
        model: Working precision and attention.
        trial: The most demanding trial of the sweep.
        lengths: Tokens of the longest example.
        workers: ZeRO-3 ranks of the trial.
        gpu: On a GPU; else what a CPU process needs beyond `CPU_PROCESS`.

    Returns:
        Bytes by phase and part.
    """
    word = 2 if model.dtype == "bfloat16" else 4
    sizes = _Sizes(shape, trial, lengths, workers, gpu, word, model.attention == "eager")
    resident = _resident(sizes)
    between = resident | _kept_heap(sizes)
    phases = {
        "start": _start(sizes),
        "forward and backward": resident | _training(sizes),
        "gradient reduction": between | _reduction(sizes),
        "optimizer step": between | _optimizer_step(sizes),
        # In lock-step, parameters are gathered where those of the training pass were.
        "evaluation and beliefs": (between if sizes.gathered else resident) | _inference(sizes),
        "saving": between | _saving(sizes),
    }
    return RankMemory(
        {name: {part: size for part, size in parts.items() if size} for name, parts in phases.items()}
    )


def _framework(sizes: _Sizes) -> dict[str, int]:
    return {"framework": GPU_FRAMEWORK if sizes.gpu else CPU_FRAMEWORK}


def _start(sizes: _Sizes) -> dict[str, int]:
    return {
        # It is read into host memory; a device gets one tensor at a time and keeps its shard of it.
        "model before it is cut": sizes.shape.largest_tensor * sizes.word if sizes.gpu else sizes.whole,
        "weights": sizes.shard * sizes.word,
        **_framework(sizes),
    }


def _resident(sizes: _Sizes) -> dict[str, int]:
    """What stays from the first step and evaluation of a lane on."""
    trained, word = sizes.trained_shard, sizes.word
    return {
        "weights": sizes.shard * word,
        "gradients": trained * word,
        # DeepSpeed copies the shard for its master also where both are float32.
        "master weights": trained * 4,
        "Adam moments": trained * 8,
        # Frozen weights are pristine by themselves.
        "pristine weights": trained * word,
        "gradient bucket": sizes.bucket * word,
        "full copy": sizes.whole if sizes.gathered else 0,
        "reference head": sizes.shape.head_elements * word if sizes.reference else 0,
        **_framework(sizes),
    }


def _kept_heap(sizes: _Sizes) -> dict[str, int]:
    """What a CPU process keeps of the forward and backward pass after it.

    glibc gives tensors back to the system only where they are larger than its threshold, which grows to 32
    MiB as such tensors are freed; smaller ones leave holes in the heap that later, larger buffers do not fit
    into. A GPU's allocator reuses its blocks.
    """
    if sizes.gpu or sizes.shape.largest_tensor * sizes.word > _LARGEST_HEAP_TENSOR:
        return {}
    return {"heap kept by malloc": _live(sizes) + activation_bytes(sizes)}


def _live(sizes: _Sizes) -> int:
    """Bytes of parameters that are whole at a time in a forward and backward pass.

    A parameter stays whole between its forward and its backward where fewer elements than DeepSpeed's reuse
    distance are used in between: the last half of that distance.
    """
    if sizes.workers == 1:
        return 0  # the shard is the parameter
    shape, prefetch = sizes.shape, sizes.zero("stage3_prefetch_bucket_size", _PREFETCH_BUCKET)
    reused = sizes.zero("stage3_max_reuse_distance", _REUSE_DISTANCE) // 2
    return min(shape.parameters, reused + shape.largest_tensor + prefetch) * sizes.word


def _fetching(sizes: _Sizes) -> int:
    """Bytes of the buffer that parameters are fetched ahead into, before they are copied out of it."""
    if sizes.workers == 1:
        return 0
    return (
        min(sizes.shape.parameters, sizes.zero("stage3_prefetch_bucket_size", _PREFETCH_BUCKET)) * sizes.word
    )


def _training(sizes: _Sizes) -> dict[str, int]:
    shape, word = sizes.shape, sizes.word
    # The head's gradient is summed in float32 and then held in working precision.
    head_gradient = sizes.trained_head * (4 if word == 4 else 6)
    return {
        "gathered weights": _live(sizes) + _fetching(sizes),
        "activations": activation_bytes(sizes),
        "head gradient": head_gradient,
        "head chunk": min(sizes.head_chunk, _rows(sizes)) * shape.vocabulary * _logit_bytes(sizes),
        "original's shards in place": sizes.trained_shard * word if sizes.reference else 0,
        "gradient of one tensor": max(sizes.trained.values()) * word,
    }


def _logit_bytes(sizes: _Sizes) -> int:
    """Bytes per logit of a head chunk: float32 logits, their softmax and one temporary; more of them with
    beliefs or a reference."""
    half = sizes.word if sizes.word == 2 else 0
    if sizes.trial.token_beliefs:
        return 20 + half  # logits, log-probabilities, scores, belief, and the masks of the top tokens
    return (20 if sizes.reference else 12) + half


def _sequences(sizes: _Sizes) -> tuple[int, int]:
    """Sequences of a micro-batch, and the length that all are padded to."""
    trial = sizes.trial
    pairs = min(trial.optimizer.micro_batch, -(-trial.optimizer.global_batch // sizes.workers))
    samples = trial.sequence_belief.num_samples if trial.sequence_beliefs else 0
    retain = trial.retain.loss != "none" and trial.forget.method != "ga"
    preferred = METHODS[trial.forget.method].preferred_answers
    longest = max(
        sizes.lengths.sequence, sizes.lengths.prompt + trial.sequence_belief.max_new_tokens if samples else 0
    )
    if trial.forget.method == "altpo":
        longest = max(longest, sizes.lengths.prompt + trial.forget.preferred.max_new_tokens)
    return pairs * (1 + samples + preferred + retain), longest


def _rows(sizes: _Sizes) -> int:
    sequences, length = _sequences(sizes)
    return sequences * length


def activation_bytes(sizes: _Sizes) -> int:
    """What the forward pass keeps for the backward pass: all layers, or their inputs and one layer at a time
    when checkpointing."""
    layer = _rows(sizes) * _layer_bytes(sizes)
    inputs = _rows(sizes) * sizes.shape.hidden * sizes.word
    if sizes.trial.engine.activation_checkpointing:
        return sizes.shape.layers * inputs + layer
    return sizes.shape.layers * layer


def _layer_bytes(sizes: _Sizes) -> int:
    """Bytes per token that one decoder layer of transformers' Llama saves for its backward pass."""
    shape, word = sizes.shape, sizes.word
    # Each norm: its input, the normalised and the scaled one; in half precision also a float32 copy that the
    # mean of squares needs.
    norms = 2 * shape.hidden * (3 * word + (4 if word == 2 else 0))
    # Queries, keys and values (repeated for every query head), the output and its copy in the layout of the
    # output projection.
    attention = 5 * shape.query_width * word
    # Gate, its activation, up, and their product.
    feed_forward = 4 * shape.intermediate * word
    # Eager attention holds probabilities, in float32 before they are rounded; the other kernels recompute
    # them.
    probabilities = shape.heads * _sequences(sizes)[1] * (4 + 2 * word) if sizes.eager else 0
    return norms + attention + feed_forward + probabilities


def _reduction(sizes: _Sizes) -> dict[str, int]:
    """The bucket's gradients, sorted by rank into a second buffer; gloo sums in a third one."""
    trained = sum(sizes.trained.values())
    flushed = min(sizes.bucket, trained)
    # With more parameters than the bucket holds, it is emptied in the middle of the backward pass.
    during = _training(sizes) if flushed < trained else {}
    kept = {name: during[name] for name in ("gathered weights", "activations") if name in during}
    return kept | {"gradient reduction": flushed * sizes.word * (1 if sizes.gpu else 2)}


def _optimizer_step(sizes: _Sizes) -> dict[str, int]:
    return {
        "optimizer temporaries": min(sizes.trained_shard, sizes.zero("sub_group_size", _SUB_GROUP))
        * _STEP_BYTES
    }


def _gathering(sizes: _Sizes) -> int:
    """Bytes of a bundle of whole tensors: this rank's part, everyone's (in a second buffer with gloo), and
    one tensor cut out of it."""
    bundle = min(sizes.shape.parameters, GATHER_ELEMENTS + sizes.shape.largest_tensor)
    return sizes.word * (
        bundle * (1 if sizes.gpu else 2) + bundle // sizes.workers + sizes.shape.largest_tensor
    )


def _saving(sizes: _Sizes) -> dict[str, int]:
    """Rank 0 puts the model together in host memory, and writes it from there."""
    return {"gathering": _gathering(sizes), "whole model for the file": 0 if sizes.gpu else sizes.whole}


def _inference(sizes: _Sizes) -> dict[str, int]:
    """Evaluation, sampling, and putting the full copy together."""
    shape, word, trial = sizes.shape, sizes.word, sizes.trial
    gathering = _gathering(sizes)
    batch = trial.engine.evaluation_batch
    length = (
        sizes.lengths.prompt + trial.sequence_belief.max_new_tokens
        if trial.sequence_beliefs
        else sizes.lengths.sequence
    )
    length = max(length, sizes.lengths.sequence)
    # A cache grows by copying one layer at a time.
    cache = batch * length * 2 * shape.key_value_width * word * (shape.layers + 1)
    passing = batch * length * (3 * shape.intermediate + 4 * shape.hidden) * word
    # Logits of the newest tokens with scores, noise and its logarithm, or a chunk of answer rows.
    logits = max(batch * 20, min(sizes.head_chunk, batch * length) * 12) * shape.vocabulary
    working = (
        cache
        + passing
        + logits
        + (0 if sizes.gathered else _live(sizes) + _fetching(sizes) + sizes.trained_shard * word)
    )
    if gathering >= working and sizes.gathered:
        return {"gathering the full copy": gathering}
    parts = {"key-value cache": cache, "activations": passing, "head chunk": logits}
    if not sizes.gathered:
        parts |= {
            "gathered weights": _live(sizes) + _fetching(sizes),
            "policy's shards set aside": sizes.trained_shard * word,
        }
    return parts
