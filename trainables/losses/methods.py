"""The base methods by name: the formula of each, what it is divided by, and what it needs to know."""

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
"""What a published average is over: answer tokens, responses, or answer tokens but each response's first."""
Score = Literal["log_ratio", "mean_probability"]
Preferred = Literal["unknowing", "sampled"]
"""Where the preferred answers come from: a list of "I don't know", or the original model."""


@dataclass(frozen=True, kw_only=True)
class BaseMethod:
    """What all kinds of method have.

    Attributes:
        name: Its key, and the name of its block of settings where it has one.
        formula: Pure function; the block's fields are its keywords.
        unit: What the published average is over.
        needs_reference: Whether it compares with the reference's log-probabilities of the targets, which are
            computed once.
        needs_reference_logits: Whether it compares with whole rows of the reference's logits, which takes a
            forward pass per step.
        needs_whole_responses: Whether a row's weight depends on the whole response.
        preferred: Where preferred answers come from; None for methods without.
    """

    name: str
    formula: Callable[..., Any]
    unit: Unit
    needs_reference: bool = False
    needs_reference_logits: bool = False
    needs_whole_responses: bool = False
    preferred: Preferred | None = None

    def keywords(self, settings: ForgetSettings) -> dict[str, Any]:
        """The hyperparameters of the method's own block."""
        block = getattr(settings, self.name, None)
        return block.model_dump() if block is not None else {}


@dataclass(frozen=True, kw_only=True)
class TargetMethod(BaseMethod):
    """Pushes targets down. Token beliefs compose with it."""

    def weigh(self, stats: TargetStats, settings: ForgetSettings) -> Weighted:
        """Weight and loss of each row. The losses of a response's rows add up to the response's published
        loss."""
        result: Weighted = self.formula(stats, **self.keywords(settings))
        return result


@dataclass(frozen=True, kw_only=True)
class PreferenceMethod(BaseMethod):
    """Prefers another answer to the response. Token beliefs compose with its response.

    Attributes:
        score: What the loss of a pair is a function of.
    """

    score: Score

    def slopes(
        self, score_P: Tensor, preferred_P: Tensor, settings: ForgetSettings
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of each pair, and its derivatives with respect to both scores."""
        with torch.enable_grad():
            leaves = [score.detach().clone().requires_grad_() for score in (score_P, preferred_P)]
            loss_P = self.formula(*leaves, **self.keywords(settings))
            slope_P, preferred_slope_P = torch.autograd.grad(loss_P.sum(), leaves)
        return loss_P.detach(), slope_P, preferred_slope_P


@dataclass(frozen=True, kw_only=True)
class LogitMethod(BaseMethod):
    """Looks at whole rows of logits."""

    def residual(self, rows: LogitRows, settings: ForgetSettings) -> tuple[Tensor, Tensor]:
        """Loss of each row, and its gradient with respect to the logits."""
        result: tuple[Tensor, Tensor] = self.formula(rows, **self.keywords(settings))
        return result


@dataclass(frozen=True, kw_only=True)
class ActivationMethod(BaseMethod):
    """Works on the activations of one layer, above which nothing is run. Its retain loss is on activations
    too."""


AnyMethod = TargetMethod | PreferenceMethod | LogitMethod | ActivationMethod
_ALL: list[AnyMethod] = [
    TargetMethod(name="ga", formula=gradient_ascent, unit="tokens"),
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
    LogitMethod(name="ceu", formula=ceu, unit="later_tokens"),
    LogitMethod(name="undial", formula=undial, unit="tokens", needs_reference_logits=True),
    LogitMethod(name="pdu", formula=pdu, unit="tokens"),
    ActivationMethod(name="rmu", formula=steer, unit="sequences"),
]
METHODS: dict[str, AnyMethod] = {method.name: method for method in _ALL}
