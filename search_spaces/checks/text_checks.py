"""Checks that a sweep on running text uses no method that needs prompts and answers."""

from collections.abc import Iterator

from search_spaces.catalogue.method_catalogue import METHODS
from search_spaces.catalogue.metric_catalogue import QUESTION_BENCHMARKS
from search_spaces.settings.space import Scalar, trial_value
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError


def check_text(sweep: SweepSettings) -> Iterator[UserError]:
    """Yields the settings that need prompts, if the benchmark's forget set is running text without prompts.

    Args:
        sweep: Settings whose space has valid keys.
    """
    if sweep.data.benchmark in QUESTION_BENCHMARKS | {"closed_world"}:
        return
    for key, reason_of in (("forget.method", _why_no_method), ("beliefs", _why_no_beliefs)):
        for value in _possible_values(sweep, key):
            reason = reason_of(str(value))
            if reason is not None:
                yield UserError(
                    f"{reason}, and the forget set of {sweep.data.benchmark} is running text without prompts",
                    key=f"space.{key}" if key in sweep.space else f"trial.{key}",
                    value=value,
                    remedy="remove it",
                )


def _possible_values(sweep: SweepSettings, key: str) -> tuple[Scalar, ...]:
    return sweep.space[key].choices if key in sweep.space else (trial_value(sweep.trial, key),)


def _why_no_method(method: str) -> str | None:
    info = METHODS[method]
    return f"{info.name} prefers another answer to the same prompt" if info.preferred_answers else None


def _why_no_beliefs(beliefs: str) -> str | None:
    sampled = "sequence" in beliefs.split("+")
    return "sequence beliefs are sampled answers to forget prompts" if sampled else None
