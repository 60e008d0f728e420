"""Memory of one rank of a trial under ZeRO-3, counted buffer by buffer. Needs neither torch nor ray.

A trial goes through phases whose buffers do not exist at the same time; its memory is that of the worst
phase. Every number is in bytes. The buffers follow `trainables/engine/zero3_engine.py` and DeepSpeed 0.19's
`runtime/zero/stage3.py`; deviations are at most a few per cent of the model. Offloading
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
"""Minimum elements of a bundle of gathered tensors, as in `trainables/engine/zero3_engine.py`."""
GPU_FRAMEWORK = 2 * GIB
"""CUDA context, NCCL's buffers and cuBLAS' workspace, with a reserve.

Measured: 1.3 GiB on an H100 with one rank. The reserve is for fragmentation of PyTorch's allocator, which
held up to a quarter more than the peak there, but releases it before it runs out of memory.
"""
CPU_FRAMEWORK = 77 * 1024**2
"""What a trial adds to a CPU worker apart from its model: modules imported late, code and data.

Measured with a model of width 32 on two ranks.
"""
CPU_PROCESS = 560 * 1024**2
"""A CPU worker before its engine starts: Python, torch, transformers and deepspeed. Measured."""

# DeepSpeed's defaults; a trial's `deepspeed: {zero_optimization: ...}` may change them.
_PREFETCH_BUCKET = 50_000_000
_REUSE_DISTANCE = 1_000_000_000
_SUB_GROUP = 1_000_000_000

_LARGEST_HEAP_TENSOR = 32 * 1024**2
"""Largest size in bytes at which glibc's malloc may allocate a tensor from its heap."""

# The fused AdamW needs the flattened gradient in float32. Weights and moments are updated in place.
_STEP_BYTES = 4


@dataclass(frozen=True)
class Lengths:
    """Token counts of the longest example of a sweep."""

    sequence: int
    """Prompt and answer together, including the chat template."""
    prompt: int
    """The prompt alone, after which responses are sampled."""


@dataclass(frozen=True)
class RankMemory:
    """The memory of one rank, phase by phase."""

    phases: Mapping[str, Mapping[str, int]]
    """Phase -> part -> bytes; parts that exist in every phase are repeated in each."""

    @property
    def worst_phase(self) -> str:
        """The phase with the highest memory."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def parts(self) -> Mapping[str, int]:
        """Part -> bytes, for the worst phase."""
        return self.phases[self.worst_phase]

    @property
    def peak(self) -> int:
        """Total bytes of the worst phase."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class _Sizes:
    """The quantities from which all phases are counted."""

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
        """Number of elements that this rank holds, including those of adapters."""
        return self.shape.shard(self.workers) + cut(adapters(self.shape, self.trial), self.workers)

    @cached_property
    def trained(self) -> Mapping[str, int]:
        """Name of each trained parameter -> its number of elements."""
        return trained_tensors(self.shape, self.trial)

    @property
    def trained_shard(self) -> int:
        """Number of trained elements that this rank holds."""
        return cut(self.trained, self.workers)

    @property
    def trained_head(self) -> int:
        """Number of elements of the output head's gradient; 0 if the head is frozen."""
        # A tied head is trained under the name of the embedding.
        return self.trained.get("model.embed_tokens.weight" if self.shape.tied else "lm_head.weight", 0)

    @property
    def head_chunk(self) -> int:
        """Number of answer tokens whose logits exist at the same time."""
        return head_chunk(self.trial.engine.head_chunk_tokens, self.shape.vocabulary, gpu=self.gpu)

    @property
    def gathered(self) -> bool:
        """Whether evaluation and sampling run on a full copy of the weights."""
        return self.trial.engine.inference == "gathered"

    @property
    def reference(self) -> bool:
        """Whether every step needs the original model's logits."""
        return METHODS[self.trial.forget.method].needs_reference_logits or (
            self.trial.retain.loss == "kl" and self.trial.forget.method != "ga"
        )

    @property
    def reference_pass(self) -> bool:
        """Whether every step runs the original model, for its logits or its activations."""
        return self.reference or self.trial.retain.loss == "activations"

    def zero(self, key: str, default: int) -> int:
        """Returns a setting of DeepSpeed's `zero_optimization` block."""
        block: Mapping[str, Any] = self.trial.deepspeed.get("zero_optimization", {})
        return int(block.get(key, default))

    @property
    def bucket(self) -> int:
        """Number of elements of the bucket in which gradients wait for their reduction."""
        trained = sum(self.trained.values())
        size = self.zero("reduce_bucket_size", reduce_bucket(trained))
        # On a CPU, pages of the bucket that are never written take no memory.
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
    """Computes the memory of one rank of a trial.

    Args:
        shape: Sizes of the model.
        model: The `model:` block, for working precision and attention.
        trial: The most demanding trial of the sweep.
        lengths: Token counts of the longest example.
        workers: Number of ZeRO-3 ranks of the trial.
        gpu: Whether the rank runs on a GPU. Otherwise the result is what a CPU process needs in addition to
            `CPU_PROCESS`.

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
        # Lock-step inference gathers parameters into the heap memory that the training pass has left, so this
        # memory is not counted twice.
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
        # The model is read into host memory. A GPU receives one tensor at a time and keeps its shard.
        "model before it is cut": sizes.shape.largest_tensor * sizes.word if sizes.gpu else sizes.whole,
        "weights": sizes.shard * sizes.word,
        **_framework(sizes),
    }


def _resident(sizes: _Sizes) -> dict[str, int]:
    """Counts the buffers that exist in every phase once a lane has done a step and an evaluation."""
    trained, word = sizes.trained_shard, sizes.word
    return {
        "weights": sizes.shard * word,
        "gradients": trained * word,
        # DeepSpeed copies the shard for its master weights even if both are float32.
        "master weights": trained * 4,
        # Two moments in float32.
        "Adam moments": trained * 8,
        # Only trained weights need a copy from which the next trial is reset; frozen weights do not change.
        "pristine weights": trained * word,
        "gradient bucket": sizes.bucket * word,
        "full copy": sizes.whole if sizes.gathered else 0,
        "reference head": sizes.shape.head_elements * word if sizes.reference else 0,
        **_framework(sizes),
    }


def _kept_heap(sizes: _Sizes) -> dict[str, int]:
    """Counts the heap memory that a CPU process keeps after the forward and backward pass.

    glibc returns a freed tensor to the system only if it is larger than the mmap threshold, which grows up to
    32 MiB as such tensors are freed. Smaller tensors leave holes in the heap, into which later, larger
    buffers do not fit. A GPU's allocator reuses its blocks.
    """
    if sizes.gpu or sizes.shape.largest_tensor * sizes.word > _LARGEST_HEAP_TENSOR:
        return {}
    return {"heap kept by malloc": _live(sizes) + activation_bytes(sizes)}


def _live(sizes: _Sizes) -> int:
    """Counts the bytes of parameters that are gathered at the same time in a forward and backward pass.

    A parameter stays gathered between its forward and its backward pass if fewer elements than DeepSpeed's
    reuse distance are used in between. This holds for the last half of that distance.
    """
    # With one worker the shard is the parameter itself.
    if sizes.workers == 1:
        return 0
    shape, prefetch = sizes.shape, sizes.zero("stage3_prefetch_bucket_size", _PREFETCH_BUCKET)
    reused = sizes.zero("stage3_max_reuse_distance", _REUSE_DISTANCE) // 2
    return min(shape.parameters, reused + shape.largest_tensor + prefetch) * sizes.word


def _fetching(sizes: _Sizes) -> int:
    """Counts the bytes of the prefetch buffer, out of which parameters are copied."""
    if sizes.workers == 1:
        return 0
    return (
        min(sizes.shape.parameters, sizes.zero("stage3_prefetch_bucket_size", _PREFETCH_BUCKET)) * sizes.word
    )


def _training(sizes: _Sizes) -> dict[str, int]:
    shape, word = sizes.shape, sizes.word
    # The head's gradient is summed in float32 and then kept in working precision: 4 bytes, or 4 + 2.
    head_gradient = sizes.trained_head * (4 if word == 4 else 6)
    return {
        "gathered weights": _live(sizes) + _fetching(sizes),
        "activations": activation_bytes(sizes),
        "head gradient": head_gradient,
        "head chunk": min(sizes.head_chunk, _rows(sizes)) * shape.vocabulary * _logit_bytes(sizes),
        "original's shards in place": sizes.trained_shard * word if sizes.reference_pass else 0,
        "gradient of one tensor": max(sizes.trained.values()) * word,
    }


def _logit_bytes(sizes: _Sizes) -> int:
    """Returns the bytes per logit of a head chunk."""
    half = sizes.word if sizes.word == 2 else 0
    # Logits, log-probabilities, scores, belief, and the masks of the top tokens.
    if sizes.trial.token_beliefs:
        return 20 + half
    # Logits, their softmax and one temporary in float32; a reference adds its logits and their softmax.
    return (20 if sizes.reference else 12) + half


def _sequences(sizes: _Sizes) -> tuple[int, int]:
    """Returns the number of sequences of a micro-batch, and the length to which all are padded."""
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
    """Counts the bytes that the forward pass keeps for the backward pass.

    With activation checkpointing these are the inputs of all layers and the activations of one layer;
    otherwise the activations of all layers.
    """
    layer = _rows(sizes) * _layer_bytes(sizes)
    inputs = _rows(sizes) * sizes.shape.hidden * sizes.word
    if sizes.trial.engine.activation_checkpointing:
        return sizes.shape.layers * inputs + layer
    return sizes.shape.layers * layer


def _layer_bytes(sizes: _Sizes) -> int:
    """Counts the bytes per token that a decoder layer of transformers' Llama saves for its backward pass."""
    shape, word = sizes.shape, sizes.word
    # Each of the two norms saves its input, the normalised input and the scaled one; in half precision also
    # the float32 copy for the mean of squares.
    norms = 2 * shape.hidden * (3 * word + (4 if word == 2 else 0))
    # Queries, keys and values (repeated for every query head), the output, and its copy in the layout of the
    # output projection.
    attention = 5 * shape.query_width * word
    # Gate, its activation, up, and their product.
    feed_forward = 4 * shape.intermediate * word
    # Eager attention saves its probabilities, in float32 and after rounding; other kernels recompute them.
    probabilities = shape.heads * _sequences(sizes)[1] * (4 + 2 * word) if sizes.eager else 0
    return norms + attention + feed_forward + probabilities


def _reduction(sizes: _Sizes) -> dict[str, int]:
    """Counts the buffers of the gradient reduction: gradients sorted by rank, and with gloo their sums."""
    trained = sum(sizes.trained.values())
    flushed = min(sizes.bucket, trained)
    # If the bucket is smaller than the gradients, it is flushed during the backward pass, while activations
    # and gathered weights still exist.
    during = _training(sizes) if flushed < trained else {}
    kept = {name: during[name] for name in ("gathered weights", "activations") if name in during}
    return kept | {"gradient reduction": flushed * sizes.word * (1 if sizes.gpu else 2)}


def _optimizer_step(sizes: _Sizes) -> dict[str, int]:
    return {
        "optimizer temporaries": min(sizes.trained_shard, sizes.zero("sub_group_size", _SUB_GROUP))
        * _STEP_BYTES
    }


def _gathering(sizes: _Sizes) -> int:
    """Counts the bytes for gathering a bundle of whole tensors."""
    # The parts of all ranks (with gloo in a second buffer too), this rank's own part, and one tensor that is
    # copied out of the bundle.
    bundle = min(sizes.shape.parameters, GATHER_ELEMENTS + sizes.shape.largest_tensor)
    return sizes.word * (
        bundle * (1 if sizes.gpu else 2) + bundle // sizes.workers + sizes.shape.largest_tensor
    )


def _saving(sizes: _Sizes) -> dict[str, int]:
    """Counts the buffers for saving a model, which rank 0 assembles in host memory and writes from there."""
    return {"gathering": _gathering(sizes), "whole model for the file": 0 if sizes.gpu else sizes.whole}


def _inference(sizes: _Sizes) -> dict[str, int]:
    """Counts the buffers of evaluation and sampling, and of gathering the full copy for them."""
    shape, word, trial = sizes.shape, sizes.word, sizes.trial
    gathering = _gathering(sizes)
    batch = trial.engine.evaluation_batch
    length = (
        sizes.lengths.prompt + trial.sequence_belief.max_new_tokens
        if trial.sequence_beliefs
        else sizes.lengths.sequence
    )
    length = max(length, sizes.lengths.sequence)
    # The cache grows by copying one layer at a time, so one layer exists twice.
    cache = batch * length * 2 * shape.key_value_width * word * (shape.layers + 1)
    passing = batch * length * (3 * shape.intermediate + 4 * shape.hidden) * word
    # Sampling needs the logits of the newest tokens with scores, noise and its logarithm (20 bytes each);
    # evaluation needs a head chunk of answer tokens.
    logits = max(batch * 20, min(sizes.head_chunk, batch * length) * 12) * shape.vocabulary
    # The full copy is gathered before the first batch, so the two needs do not add up.
    if sizes.gathered and gathering >= cache + passing + logits:
        return {"gathering the full copy": gathering}
    parts = {"key-value cache": cache, "activations": passing, "head chunk": logits}
    if not sizes.gathered:
        parts |= {
            "gathered weights": _live(sizes) + _fetching(sizes),
            "policy's shards set aside": sizes.trained_shard * word,
        }
    return parts
