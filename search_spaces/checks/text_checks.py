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
    for key, why in (("forget.method", _prefers), ("beliefs", _samples)):
        for value in _offered(sweep, key):
            if reason := why(str(value)):
                place = f"space.{key}" if key in sweep.space else f"trial.{key}"
                yield UserError(
                    f"{reason}, and the forget set of {sweep.data.benchmark} is running text without prompts",
                    key=place,
                    value=value,
                    remedy="remove it",
                )


def _offered(sweep: SweepSettings, key: str) -> tuple[Scalar, ...]:
    return sweep.space[key].choices if key in sweep.space else (trial_value(sweep.trial, key),)


def _prefers(method: str) -> str:
    return (
        f"{METHODS[method].name} prefers another answer to the same prompt"
        if METHODS[method].preferred_answers
        else ""
    )


def _samples(beliefs: str) -> str:
    return (
        "sequence beliefs are sampled answers to forget prompts" if "sequence" in beliefs.split("+") else ""
    )
