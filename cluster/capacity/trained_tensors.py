"""What of a model a trial trains: gradients, master weights and optimizer state are held for that alone."""

import re
from collections.abc import Mapping
from math import prod

from cluster.capacity.model_shapes import ModelShape
from search_spaces.settings.trial_settings import TrialSettings


def trained_tensors(shape: ModelShape, trial: TrialSettings) -> Mapping[str, int]:
    """Elements of each trained parameter by name: those that `trainables/engine/trained_parameters.py` leaves
    with a gradient.

    Patterns that name nothing of a Llama count as all of it, so that nothing is promised too small.
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
    """Elements of the matrices of all adapters; none without `lora`."""
    rank, modules = trial.lora.rank, trial.lora.modules
    sizes: dict[str, int] = {}
    for name, sides in shape.tensors.items():
        layer = name.removesuffix(".weight").rpartition(".")[2]
        if rank and name.endswith("_proj.weight") and (not modules or layer in modules):
            out, into = sides
            sizes |= {f"{name}/down": rank * into, f"{name}/up": rank * out}
    return sizes


def cut(tensors: Mapping[str, int], workers: int) -> int:
    """Elements of these tensors that one of `workers` ranks holds."""
    return sum(-(-size // workers) for size in tensors.values())
