"""The base methods by name: the formula of each, the unit of its average, and the inputs that it needs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from search_spaces.settings.forget_settings import ForgetSettings
from trainables.losses.logit_methods import LogitRows, ceu, pdu, undial
from trainables.losses.preference_methods import dpo, flat
from trainables.losses.residuals import TargetStats, Weighted
from trainables.losses.steering import steer
from trainables.losses.target_methods import gradient_ascent, npo, satimp, simnpo, tnpo, wga, wtnpo

Unit = Literal["tokens", "sequences", "later_tokens"]
"""Unit of a published average: answer tokens, responses, or answer tokens after a response's first."""
Score = Literal["log_ratio", "mean_probability"]
Preferred = Literal["unknowing", "sampled"]
"""Source of the preferred answers: a list of "I don't know" lines, or samples of the original model."""


@dataclass(frozen=True, kw_only=True)
class BaseMethod:
    """The properties that all kinds of methods share.

    Attributes:
        name: Key of the method, and the name of its block of settings where it has one.
        formula: A pure function; the block's fields are its keyword arguments.
        unit: Unit of the published average.
        needs_reference: Whether it compares with the reference's log-probabilities of the targets, which are
            computed once.
        needs_reference_logits: Whether it compares with whole rows of the reference's logits, which takes a
            forward pass per step.
        needs_whole_responses: Whether a row's weight depends on the whole response.
        preferred: Source of the preferred answers; None for methods without them.
    """

    name: str
    formula: Callable[..., Any]
    unit: Unit
    needs_reference: bool = False
    needs_reference_logits: bool = False
    needs_whole_responses: bool = False
    preferred: Preferred | None = None

    def keywords(self, settings: ForgetSettings) -> dict[str, Any]:
        """Return the hyperparameters of the method's own block; none for a method without one."""
        block = getattr(settings, self.name, None)
        return block.model_dump() if block is not None else {}


@dataclass(frozen=True, kw_only=True)
class TargetMethod(BaseMethod):
    """A method that lowers the probability of target tokens. Token beliefs compose with it."""

    def weigh(self, stats: TargetStats, settings: ForgetSettings) -> Weighted:
        """Return weight and loss of each row, both `[N]`; a response's rows add up to its published loss."""
        result: Weighted = self.formula(stats, **self.keywords(settings))
        return result


@dataclass(frozen=True, kw_only=True)
class PreferenceMethod(BaseMethod):
    """A method that prefers another answer to the response. Token beliefs compose with its response.

    Attributes:
        score: The number of each response that the loss of a pair is a function of.
    """

    score: Score

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


@dataclass(frozen=True, kw_only=True)
class LogitMethod(BaseMethod):
    """A method whose loss is a function of whole rows of logits."""

    def residual(self, rows: LogitRows, settings: ForgetSettings) -> tuple[Tensor, Tensor]:
        """Return the loss of each row, `[N]`, and its gradient with respect to the logits, `[N, V]`."""
        result: tuple[Tensor, Tensor] = self.formula(rows, **self.keywords(settings))
        return result


@dataclass(frozen=True, kw_only=True)
class ActivationMethod(BaseMethod):
    """A method on the activations of one layer, where the forward pass ends, also for the retain loss."""


AnyMethod = TargetMethod | PreferenceMethod | LogitMethod | ActivationMethod
_ALL: list[AnyMethod] = [
    TargetMethod(name="ga", formula=gradient_ascent, unit="tokens"),
    # GradDiff is gradient ascent beside a retain loss, and the retain loss is a term of its own.
    TargetMethod(name="graddiff", formula=gradient_ascent, unit="tokens"),
    TargetMethod(name="npo", formula=npo, unit="sequences", needs_reference=True, needs_whole_responses=True),
    TargetMethod(name="simnpo", formula=simnpo, unit="sequences", needs_whole_responses=True),
    TargetMethod(name="wga", formula=wga, unit="tokens"),
    TargetMethod(name="tnpo", formula=tnpo, unit="tokens", needs_reference=True),
    TargetMethod(name="wtnpo", formula=wtnpo, unit="tokens", needs_reference=True),
    TargetMethod(name="satimp", formula=satimp, unit="tokens"),
    PreferenceMethod(
        name="dpo",
        formula=dpo,
        score="log_ratio",
        unit="sequences",
        needs_reference=True,
        needs_whole_responses=True,
        preferred="unknowing",
    ),
    PreferenceMethod(
        name="altpo",
        formula=dpo,
        score="log_ratio",
        unit="sequences",
        needs_reference=True,
        needs_whole_responses=True,
        preferred="sampled",
    ),
    PreferenceMethod(
        name="flat",
        formula=flat,
        score="mean_probability",
        unit="sequences",
        needs_whole_responses=True,
        preferred="unknowing",
    ),
    # CE-U skips the first token of each response, so its average counts one token less per response.
    LogitMethod(name="ceu", formula=ceu, unit="later_tokens"),
    LogitMethod(name="undial", formula=undial, unit="tokens", needs_reference_logits=True),
    LogitMethod(name="pdu", formula=pdu, unit="tokens"),
    # RMU averages the distance over the tokens of each response and then over responses.
    ActivationMethod(name="rmu", formula=steer, unit="sequences"),
]
METHODS: dict[str, AnyMethod] = {method.name: method for method in _ALL}
