"""Which parameters a trial trains: all, those of some names, or low-rank adapters beside frozen weights. The
only seam to peft."""

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
"""Ends of the names of an adapter's matrices, `[R, in]` and `[out, R]`."""
FROZEN = ".base_layer"
"""What stands in the name of a layer's own parameters once it has an adapter."""


def choose_trained(model: PreTrainedModel, trial: TrialSettings) -> None:
    """Freeze what the trial does not train, and put adapters in where it asks for them.

    Args:
        model: Changed in place. Its output head gets no adapter: the loss works with the head's weight
            itself.
        trial: `lora` and `trained`.

    Raises:
        UserError: No parameter or linear layer has such a name.
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
    # peft takes a second to import, and most trials need none of it.
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
    # `set_scale` gives them the scale of each trial.
    inject_adapter_in_model(
        LoraConfig(r=lora.rank, lora_alpha=lora.rank, target_modules=lora.modules or sorted(linear)), model
    )


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to an adapter."""
    return name.endswith((DOWN, UP))


def plain_name(name: str) -> str:
    """The name that a parameter has in the model without adapters; an adapter's own stays."""
    return name.replace(FROZEN, "")


def merged(name: str, weight: Tensor, adapters: Mapping[str, Tensor], lora: LoraSettings) -> Tensor:
    """A weight with its adapter's product added to it, as peft merges it; without an adapter as it is.

    Args:
        name: Plain name of the weight.
        weight: `[out, in]`.
        adapters: Whole adapter matrices by name.
        lora: Scale of the product.
    """
    layer = name.removesuffix(".weight")
    if layer + UP not in adapters:
        return weight
    product = adapters[layer + UP].float() @ adapters[layer + DOWN].float()
    return (weight.float() + product * (lora.alpha / lora.rank)).to(weight.dtype)


def set_scale(modules: Iterable[Any], lora: LoraSettings) -> None:
    """Let the adapters' products count by the trial's `alpha`."""
    for module in modules:
        if hasattr(module, "lora_A"):
            module.scaling["default"] = lora.alpha / lora.rank


def fresh_adapter(name: str, shape: Sequence[int], seed: int) -> Tensor:
    """What an adapter's matrix starts as: uniform numbers, or zeros for the second one, so that their product
    is zero.

    Args:
        name: Of the matrix.
        shape: Of the whole matrix.
        seed: The trial's.

    Source: LoRA (arXiv 2106.09685) with the bounds of its published code and of peft, 1 / sqrt(in).
    """
    if name.endswith(UP):
        return torch.zeros(*shape)
    generator = torch.Generator().manual_seed(
        int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little")
    )
    bound = 1 / math.sqrt(shape[1])
    return torch.empty(*shape).uniform_(-bound, bound, generator=generator)
