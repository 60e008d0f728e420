"""The base methods by name: the formula of each, as a loss of the kind that the catalogue states."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from search_spaces.catalogue.method_catalogue import METHODS as CATALOGUE
from search_spaces.catalogue.method_catalogue import Kind, MethodInfo, Preferred, Score, Unit
from search_spaces.settings.forget_settings import ForgetSettings
from trainables.losses.logit_methods import LogitRows, ceu, pdu, undial
from trainables.losses.preference_methods import dpo, flat
from trainables.losses.residuals import TargetStats, Weighted
from trainables.losses.steering import steer
from trainables.losses.target_methods import gradient_ascent, npo, satimp, simnpo, tnpo, wga, wtnpo


@dataclass(frozen=True)
class BaseMethod:
    """A method: its formula, and its entry of the catalogue, from which all other facts are read."""

    name: str
    """Key of the method, and the name of its block of settings if it has one."""
    formula: Callable[..., Any]
    """A pure function; its keyword arguments are the fields of the block of settings."""
    info: MethodInfo

    @property
    def unit(self) -> Unit:
        """Unit of the published average."""
        return self.info.unit

    @property
    def needs_reference(self) -> bool:
        """Whether the formula reads the reference's log-probabilities of the targets, computed once."""
        return self.info.needs_reference

    @property
    def needs_reference_logits(self) -> bool:
        """Whether the formula reads whole rows of the reference's logits, a forward pass per step."""
        return self.info.needs_reference_logits

    @property
    def needs_whole_responses(self) -> bool:
        """Whether a row's weight depends on the whole response."""
        return self.info.needs_whole_responses

    @property
    def preferred(self) -> Preferred | None:
        """Source of the preferred answers; None for methods without them."""
        return self.info.preferred

    def keywords(self, settings: ForgetSettings) -> dict[str, Any]:
        """Return the hyperparameters of the method's own block; none for a method without one."""
        block = getattr(settings, self.name, None)
        return block.model_dump() if block is not None else {}


@dataclass(frozen=True)
class TargetMethod(BaseMethod):
    """A method that lowers the probability of target tokens. Token beliefs compose with it."""

    def weigh(self, stats: TargetStats, settings: ForgetSettings) -> Weighted:
        """Return weight and loss of each row, both `[N]`; a response's rows add up to its published loss."""
        result: Weighted = self.formula(stats, **self.keywords(settings))
        return result


@dataclass(frozen=True)
class PreferenceMethod(BaseMethod):
    """A method that prefers another answer to the response. Token beliefs compose with its response."""

    @property
    def score(self) -> Score:
        """Score of a response; the loss of a pair is a function of the scores of its two answers."""
        assert self.info.score is not None, "the catalogue states the score of every preference method"
        return self.info.score

    def slopes(
        self, score_P: Tensor, preferred_P: Tensor, settings: ForgetSettings
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss of each pair, and its derivatives with respect to both scores, all `[P]`."""
        # Autograd on two numbers per pair costs nothing, and every f-divergence gets its slope for free. The
        # fused head runs without gradients, so they are switched on here.
        with torch.enable_grad():
            leaves = [score.detach().clone().requires_grad_() for score in (score_P, preferred_P)]
            loss_P = self.formula(*leaves, **self.keywords(settings))
            slope_P, preferred_slope_P = torch.autograd.grad(loss_P.sum(), leaves)
        return loss_P.detach(), slope_P, preferred_slope_P


@dataclass(frozen=True)
class LogitMethod(BaseMethod):
    """A method whose loss is a function of whole rows of logits."""

    def residual(self, rows: LogitRows, settings: ForgetSettings) -> tuple[Tensor, Tensor]:
        """Return the loss of each row, `[N]`, and its gradient with respect to the logits, `[N, V]`."""
        result: tuple[Tensor, Tensor] = self.formula(rows, **self.keywords(settings))
        return result


@dataclass(frozen=True)
class ActivationMethod(BaseMethod):
    """A method on the activations of one layer, where the forward pass ends, also for the retain loss."""


AnyMethod = TargetMethod | PreferenceMethod | LogitMethod | ActivationMethod
CLASSES: dict[Kind, type[AnyMethod]] = {
    "target": TargetMethod,
    "preference": PreferenceMethod,
    "logits": LogitMethod,
    "activations": ActivationMethod,
}
FORMULAS: dict[str, Callable[..., Any]] = {
    "ga": gradient_ascent,
    # GradDiff is gradient ascent with a retain loss, and the retain loss is a term of its own.
    "graddiff": gradient_ascent,
    "npo": npo,
    "simnpo": simnpo,
    "wga": wga,
    "tnpo": tnpo,
    "wtnpo": wtnpo,
    "satimp": satimp,
    # IdkDPO and AltPO differ only in the source of their preferred answers.
    "dpo": dpo,
    "altpo": dpo,
    "flat": flat,
    "ceu": ceu,
    "undial": undial,
    "pdu": pdu,
    "rmu": steer,
}
METHODS: dict[str, AnyMethod] = {
    name: CLASSES[CATALOGUE[name].kind](name, formula, CATALOGUE[name]) for name, formula in FORMULAS.items()
}
