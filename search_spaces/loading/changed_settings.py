"""Changes the settings of an existing sweep: more trials, a larger budget, or other probe settings."""

from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from search_spaces.loading.absolute_paths import with_absolute_paths
from search_spaces.loading.overrides import apply_override, key_of_override
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError
from search_spaces.validation_messages import problems_of

PROBE = "evaluation.probe."
REMEDY = "write +20 for more, or 64 for a new total"


def extended(sweep: SweepSettings, changes: Mapping[str, str]) -> SweepSettings:
    """Returns the sweep with some of its limits raised.

    Args:
        sweep: Settings of the existing sweep.
        changes: Dotted key -> `+amount` to add, or a new total.

    Raises:
        UserError: There is no change, a change is not a number, lowers a limit, or adds to a limit that the
            sweep does not have.
    """
    if not changes:
        raise UserError("nothing to extend", key="--trials", remedy=REMEDY)
    raw = sweep.model_dump(mode="json")
    for key, text in changes.items():
        block, _, name = key.partition(".")
        raw[block][name] = _raised(raw[block][name], key, text)
    try:
        return SweepSettings.model_validate(raw)
    except ValidationError as error:
        raise UserError.joined(problems_of(error, SweepSettings)) from error


def _raised(now: float | None, key: str, text: str) -> float:
    # A limit that is an integer, such as the number of trials, must stay one.
    try:
        # Both functions accept the plus sign of an addition.
        amount = int(text) if isinstance(now, int) else float(text)
    except ValueError as error:
        raise UserError("not a number", key=key, value=text, remedy=REMEDY) from error
    if text.strip().startswith("+"):
        if now is None:
            problem = "the sweep has no such limit, so there is nothing to add to"
            raise UserError(problem, key=key, value=text, remedy=REMEDY)
        return now + amount
    if now is not None and amount < now:
        allowed = f"{now:g} or more"
        raise UserError("a limit can only be raised", key=key, value=text, allowed=allowed, remedy=REMEDY)
    return amount


def with_probe_settings(sweep: SweepSettings, overrides: Sequence[str]) -> SweepSettings:
    """Returns an existing sweep with other probe settings.

    Args:
        sweep: Resolved settings.
        overrides: Overrides, each `evaluation.probe.KEY=VALUE`.

    Raises:
        UserError: A key belongs to another block or is unknown, or a value is not allowed.
    """
    raw = sweep.model_dump(mode="json")
    for override in overrides:
        if not key_of_override(override).startswith(PROBE):
            raise UserError(
                "an audit can change probe settings only",
                file="--set",
                key=key_of_override(override),
                allowed=f"{PROBE}leak.k, ...",
            )
        apply_override(raw, override)
    try:
        return with_absolute_paths(SweepSettings.model_validate(raw))
    except ValidationError as error:
        raise UserError.joined(problems_of(error, SweepSettings), "--set") from error
