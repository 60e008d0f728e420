"""Selects the trained parameters: all, those with given names, or LoRA adapters. The only seam to peft."""

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from search_spaces.settings.trial_settings import LoraSettings, TrialSettings
from search_spaces.user_errors import UserError, did_you_mean

DOWN, UP = ".lora_A.default.weight", ".lora_B.default.weight"
"""Suffixes of the names of an adapter's matrices, `[R, in]` and `[out, R]`."""
FROZEN = ".base_layer"
"""Part that peft adds to the name of a layer's own parameters once the layer has an adapter."""


def choose_trained(model: PreTrainedModel, trial: TrialSettings) -> None:
    """Freeze the parameters that the trial does not train, and insert LoRA adapters if it has a rank.

    Args:
        model: The model, changed in place. Its output head gets no adapter, since the loss uses the head's
            weight itself.
        trial: Settings with `lora` and `trained`.

    Raises:
        UserError: No parameter or linear layer has a given name.
    """
    if trial.lora.rank:
        _insert_adapters(model, trial.lora)
    elif trial.trained:
        names = [name for name, _ in model.named_parameters()]
        for pattern in trial.trained:
            if not any(re.fullmatch(pattern, name) for name in names):
                raise UserError(
                    "no parameter of this model has such a name",
                    key="trial.trained",
                    value=pattern,
                    allowed=(
                        f"regular expressions for whole names, such as {re.escape(names[len(names) // 2])}"
                    ),
                )
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(any(re.fullmatch(pattern, name) for pattern in trial.trained))


def _insert_adapters(model: PreTrainedModel, lora: LoraSettings) -> None:
    # peft takes a second to import, and most trials train without adapters.
    from peft import LoraConfig, inject_adapter_in_model

    output = model.get_output_embeddings()
    linear = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not output
    }
    for name in lora.modules:
        if name not in linear:
            raise UserError(
                f"no linear layer of this model has such a name.{did_you_mean(name, linear)}",
                key="trial.lora.modules",
                value=name,
                allowed=", ".join(sorted(linear)),
            )
    # alpha = rank gives scale 1 for now; `set_scale` sets the scale of each trial on the same adapters.
    inject_adapter_in_model(
        LoraConfig(r=lora.rank, lora_alpha=lora.rank, target_modules=lora.modules or sorted(linear)), model
    )


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to an adapter."""
    return name.endswith((DOWN, UP))


def plain_name(name: str) -> str:
    """Return the name that a parameter has in the model without adapters; adapters keep their names."""
    return name.replace(FROZEN, "")


def merged(name: str, weight: Tensor, adapters: Mapping[str, Tensor], lora: LoraSettings) -> Tensor:
    """Return a weight with its adapter's product added, as peft merges it; a weight without one is unchanged.

    Args:
        name: Plain name of the weight.
        weight: The weight, `[out, in]`.
        adapters: Whole adapter matrices by name.
        lora: Settings with `alpha` and `rank`, whose quotient scales the product.
    """
    layer = name.removesuffix(".weight")
    if layer + UP not in adapters:
        return weight
    # float32: a bfloat16 product would lose small updates before they reach the weight.
    product = adapters[layer + UP].float() @ adapters[layer + DOWN].float()
    return (weight.float() + product * (lora.alpha / lora.rank)).to(weight.dtype)


def set_scale(modules: Iterable[Any], lora: LoraSettings) -> None:
    """Set the scale of all adapters to the trial's alpha / rank."""
    for module in modules:
        if hasattr(module, "lora_A"):
            module.scaling["default"] = lora.alpha / lora.rank


def fresh_adapter(name: str, shape: Sequence[int], seed: int) -> Tensor:
    """Draw the initial matrix of an adapter: uniform for the first, zeros for the second.

    The product of the two is zero, so training starts at the model's own weights.

    Args:
        name: Name of the matrix.
        shape: Shape of the whole matrix.
        seed: Seed of the trial.

    Source: LoRA (arXiv 2106.09685) with the bounds of its published code and of peft, 1 / sqrt(in).
    """
    if name.endswith(UP):
        return torch.zeros(*shape)
    # Seeded by name, so that a matrix does not depend on the order in which adapters are drawn, or on the
    # rank.
    generator = torch.Generator().manual_seed(
        int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little")
    )
    bound = 1 / math.sqrt(shape[1])
    return torch.empty(*shape).uniform_(-bound, bound, generator=generator)
