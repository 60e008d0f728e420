"""Applies `--set KEY=VALUE` overrides to the raw mapping of a sweep file."""

from typing import Any

from search_spaces.loading.yaml_text import parse_yaml
from search_spaces.user_errors import UserError, did_you_mean

SPACE = "space."


def key_of_override(override: str) -> str:
    """Returns the dotted key of an override `KEY=VALUE`."""
    return override.partition("=")[0].strip()


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Applies one override to the raw mapping.

    Raises:
        UserError: The override is not `KEY=VALUE`, its value is not YAML, or its key is below a plain value.
    """
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UserError(
            "is not of the form key=value",
            file="--set",
            value=override,
            remedy="write, for example, --set search.trials=32",
        )
    value = parse_yaml(text, "--set", key)
    if key.startswith(SPACE):
        _override_space(raw, key.removeprefix(SPACE), value)
        return
    *blocks, last = key.split(".")
    here = raw
    for depth, block in enumerate(blocks):
        below = here.setdefault(block, {})
        # YAML reads a block without contents, such as a bare `trial:`, as null.
        if below is None:
            below = here[block] = {}
        if not isinstance(below, dict):
            raise UserError(
                "has nothing below it",
                file="--set",
                key=key,
                value=value,
                remedy=f"give {'.'.join(blocks[: depth + 1])} a plain value",
            )
        here = below
    here[last] = value


def _override_space(raw: dict[str, Any], key: str, value: Any) -> None:
    """Overrides the domain of one key of the space, or removes the key if the value is None."""
    # Keys of the space contain dots themselves, so the rest of the override is a single key.
    if not isinstance(raw.get("space"), dict):
        raw["space"] = {}
    space = raw["space"]
    if value is not None:
        space[key] = value
    elif key in space:
        del space[key]
    else:
        raise UserError(
            f"is not in the space.{did_you_mean(key, space)}",
            file="--set",
            key=SPACE + key,
            allowed=", ".join(space),
        )
