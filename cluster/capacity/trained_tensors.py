"""Counts the parameters that a trial trains; only these have gradients, master weights and Adam moments."""

import re
from collections.abc import Mapping
from math import prod

from cluster.capacity.model_shapes import ModelShape
from search_spaces.settings.trial_settings import TrialSettings


def trained_tensors(shape: ModelShape, trial: TrialSettings) -> Mapping[str, int]:
    """Returns the number of elements of each trained parameter, by name.

    These are the parameters that `trainables/engine/trained_parameters.py` leaves with a gradient. Patterns
    that match no parameter of a Llama count as the whole model, so that memory is not underestimated.
    """
    whole = {name: prod(sides) for name, sides in shape.tensors.items()}
    if trial.lora.rank:
        return adapters(shape, trial)
    chosen = {
        name: size
        for name, size in whole.items()
        if any(re.fullmatch(pattern, name) for pattern in trial.trained)
    }
    return chosen or whole


def adapters(shape: ModelShape, trial: TrialSettings) -> Mapping[str, int]:
    """Returns the number of elements of each LoRA matrix, by name; empty without `lora`."""
    # Without a list of modules, LoRA adapts all projections, whose names end in `_proj`.
    rank, modules = trial.lora.rank, trial.lora.modules
    sizes: dict[str, int] = {}
    for name, sides in shape.tensors.items():
        layer = name.removesuffix(".weight").rpartition(".")[2]
        if rank and name.endswith("_proj.weight") and (not modules or layer in modules):
            out, into = sides
            sizes |= {f"{name}/down": rank * into, f"{name}/up": rank * out}
    return sizes


def cut(tensors: Mapping[str, int], workers: int) -> int:
    """Returns how many elements of the tensors one of `workers` ranks holds under ZeRO-3."""
    return sum(-(-size // workers) for size in tensors.values())
