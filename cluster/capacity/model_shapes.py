"""Shapes and parameter counts of Llama-like models, without loading a model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from search_spaces.settings.model_settings import ModelSettings, ScratchSettings
from search_spaces.user_errors import UserError

QUERY_KEY_NORMS = ("qwen3",)
"""Model families with a norm of queries and keys per head."""
QUERY_BIASES = ("qwen2",)
"""Model families with biases on queries, keys and values, which their config.json does not mention."""
COUNTED = ("llama", "mistral", *QUERY_BIASES, *QUERY_KEY_NORMS)
"""Values of `model_type` for which parameters are counted exactly."""
SHORT_NAMES = {"1b": "llama-3.2-1b", "8b": "llama-3.1-8b", "70b": "llama-3.1-70b"}


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a causal language model with Llama's decoder layers."""

    name: str
    """Name for display."""
    hidden: int
    """Width of the residual stream."""
    intermediate: int
    """Width of the feed-forward layers."""
    layers: int
    """Number of decoder layers."""
    heads: int
    """Number of query heads."""
    key_value_heads: int
    """Number of key and value heads."""
    head_size: int
    """Width of one head."""
    vocabulary: int
    """Number of rows of the embedding and of the output head."""
    tied: bool
    """Whether embedding and output head share one matrix."""
    query_bias: bool = False
    """Whether queries, keys and values have biases."""
    output_bias: bool = False
    """Whether the attention's output projection has a bias."""
    feed_forward_bias: bool = False
    """Whether the feed-forward layers have biases."""
    query_key_norms: bool = False
    """Whether queries and keys are normalised per head."""

    @property
    def query_width(self) -> int:
        """Number of elements of all query heads, per token."""
        return self.heads * self.head_size

    @property
    def key_value_width(self) -> int:
        """Number of elements of all key heads, per token; the values have as many."""
        return self.key_value_heads * self.head_size

    @property
    def layer_tensors(self) -> dict[str, tuple[int, ...]]:
        """Name of each parameter within one decoder layer -> its shape."""
        queries, keys, hidden, wide = self.query_width, self.key_value_width, self.hidden, self.intermediate
        linear = {
            "self_attn.q_proj": (queries, hidden, self.query_bias),
            "self_attn.k_proj": (keys, hidden, self.query_bias),
            "self_attn.v_proj": (keys, hidden, self.query_bias),
            "self_attn.o_proj": (hidden, queries, self.output_bias),
            "mlp.gate_proj": (wide, hidden, self.feed_forward_bias),
            "mlp.up_proj": (wide, hidden, self.feed_forward_bias),
            "mlp.down_proj": (hidden, wide, self.feed_forward_bias),
        }
        tensors: dict[str, tuple[int, ...]] = {
            f"{name}.weight": (out, into) for name, (out, into, _) in linear.items()
        }
        tensors |= {f"{name}.bias": (out,) for name, (out, _, biased) in linear.items() if biased}
        tensors |= {f"{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
        tensors |= {
            f"self_attn.{name}_norm.weight": (self.head_size,) for name in ("q", "k") if self.query_key_norms
        }
        return tensors

    @cached_property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name of every parameter -> its shape; a tied output head is left out."""
        layers = {
            f"model.layers.{layer}.{name}": sides
            for layer in range(self.layers)
            for name, sides in self.layer_tensors.items()
        }
        around = {
            "model.embed_tokens.weight": (self.vocabulary, self.hidden),
            "model.norm.weight": (self.hidden,),
        }
        return around | layers | ({} if self.tied else {"lm_head.weight": (self.vocabulary, self.hidden)})

    @property
    def head_elements(self) -> int:
        """Number of elements of the output head."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """Number of parameters; a tied output head is counted once."""
        return sum(prod(sides) for sides in self.tensors.values())

    @property
    def largest_tensor(self) -> int:
        """Number of elements of the largest parameter."""
        return max(prod(sides) for sides in self.tensors.values())

    def shard(self, workers: int) -> int:
        """Returns how many elements one of `workers` ranks holds under ZeRO-3."""
        # DeepSpeed partitions each tensor separately and pads its last partition, hence the rounding up.
        return sum(-(-prod(sides) // workers) for sides in self.tensors.values())


def _llama(
    name: str, hidden: int, intermediate: int, layers: int, heads: int, head_size: int, *, tied: bool
) -> ModelShape:
    return ModelShape(name, hidden, intermediate, layers, heads, 8, head_size, 128_256, tied)


KNOWN: dict[str, ModelShape] = {
    "llama-3.2-1b": _llama("Llama 3.2 1B", 2048, 8192, 16, 32, 64, tied=True),
    "llama-3.2-3b": _llama("Llama 3.2 3B", 3072, 8192, 28, 24, 128, tied=True),
    "llama-3.1-8b": _llama("Llama 3.1 8B", 4096, 14_336, 32, 32, 128, tied=False),
    "llama-3.1-70b": _llama("Llama 3.1 70B", 8192, 28_672, 80, 64, 128, tied=False),
}
"""Part of the hub id, in lower case -> shape."""


def shape_of(model: ModelSettings, given: str | None = None) -> ModelShape:
    """Finds the shape of a sweep's model, without a network connection.

    Args:
        model: The `model:` block: a folder with a config.json, `base: scratch`, or the hub id of a known
            Llama.
        given: The value of `--model-shape`: a key of `SHORT_NAMES` or `KNOWN`, or a config.json or its
            folder. It takes precedence over the block.

    Raises:
        UserError: The shape is not known, or is of a family whose parameters cannot be counted.
    """
    if given is not None:
        found = KNOWN.get(SHORT_NAMES.get(given.lower(), given.lower())) or _from_path(Path(given))
        if found is None:
            raise UserError(
                "unknown model shape",
                key="--model-shape",
                value=given,
                allowed=", ".join((*SHORT_NAMES, *KNOWN)),
                remedy="give one of these, or the config.json of the model",
            )
        return found
    name = model.target or model.base
    assert name is not None, "the settings require one of both"
    if name == "scratch":
        return scratch_shape(model.scratch)
    # A local folder takes precedence over a hub id of the same name, as in transformers.
    found = _from_path(Path(name)) or next(
        (shape for key, shape in KNOWN.items() if key in name.lower().replace("_", "-")), None
    )
    # Meta's 3.0, 3.1 and 3.3 models of one size share one shape.
    found = found or next(
        (KNOWN[SHORT_NAMES[size]] for size in ("8b", "70b") if f"llama-3-{size}" in name.lower()), None
    )
    if found is None:
        raise UserError(
            "the model's config.json cannot be read here, so its memory cannot be counted",
            key="model.target" if model.target else "model.base",
            value=name,
            allowed="a folder with a config.json, `scratch`, or the hub id of a Llama 3.1 or 3.2",
            remedy="give --model-shape 1b, 8b or 70b, or --model-shape PATH with the model's config.json",
        )
    return found


def scratch_shape(scratch: ScratchSettings) -> ModelShape:
    """Returns the shape of the small Llama of `base: scratch`, with the upper bound of its vocabulary."""
    return ModelShape(
        "scratch",
        scratch.hidden_size,
        scratch.intermediate_size,
        scratch.layers,
        scratch.heads,
        scratch.heads,
        scratch.hidden_size // scratch.heads,
        scratch.vocabulary,
        scratch.tie_embeddings,
    )


def shape_from_config(config: Mapping[str, Any], file: str) -> ModelShape:
    """Reads the shape from a Hugging Face config.json.

    Args:
        config: The contents of the file.
        file: The name of the file, for messages.

    Raises:
        UserError: The model is of another family, or a size is missing.
    """
    family = config.get("model_type")
    if family not in COUNTED:
        raise UserError(
            "the parameters of this model family cannot be counted",
            file=file,
            key="model_type",
            value=family,
            allowed=", ".join(COUNTED),
            remedy="give --model-shape with the nearest known shape",
        )
    # Optional keys fall back to transformers' defaults.
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        return ModelShape(
            name=str(config.get("_name_or_path") or Path(file).parent.name or family),
            hidden=hidden,
            intermediate=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            key_value_heads=int(config.get("num_key_value_heads") or heads),
            head_size=int(config.get("head_dim") or hidden // heads),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            query_bias=family in QUERY_BIASES or bool(config.get("attention_bias", False)),
            output_bias=bool(config.get("attention_bias", False)),
            feed_forward_bias=bool(config.get("mlp_bias", False)),
            query_key_norms=family in QUERY_KEY_NORMS,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"no usable size: {error}", file=file, remedy="give the config.json that came with the model"
        ) from error


def _from_path(path: Path) -> ModelShape | None:
    """Reads the shape from a local folder or config.json; None if the file does not exist."""
    file = path if path.suffix == ".json" else path / "config.json"
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(
            f"not JSON: {error}", file=file, remedy="give the config.json that came with the model"
        ) from error
    return shape_from_config(config, str(file))
