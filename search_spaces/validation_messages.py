"""Converts pydantic's validation errors to user errors with key, value, allowed values and a hint."""

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from search_spaces.user_errors import UserError, did_you_mean

WHOLE_NUMBER = "a whole number"
# Pydantic's messages name Python types, which do not occur in YAML files.
NAMES_OF_TYPES = {
    "int_parsing": WHOLE_NUMBER,
    "int_type": WHOLE_NUMBER,
    "int_from_float": WHOLE_NUMBER,
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text; put it in quotes where YAML reads a number, a date or true",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "model_type": "a block of `key: value` lines",
    "dict_type": "a block of `key: value` lines",
    "model_attributes_type": "a block of `key: value` lines",
    "tuple_type": "a list",
}


def problems_of(error: ValidationError, settings: type[BaseModel]) -> list[UserError]:
    """Converts a validation error to one user error per problem, without the name of a file.

    Args:
        error: The error that `settings.model_validate` has raised.
        settings: The class that was validated.
    """
    return [_problem(details, settings) for details in error.errors()]


def _problem(details: ErrorDetails, settings: type[BaseModel]) -> UserError:
    # The owner is None for a place that no settings class declares, such as a value inside a list.
    steps, owner = _walk(details["loc"], settings)
    key = ".".join(steps) or None
    given = details.get("input")
    kind, context = details["type"], details.get("ctx", {})
    if kind == "extra_forbidden":
        siblings = list(owner.model_fields) if owner else []
        return UserError(
            f"unknown key.{did_you_mean(steps[-1], siblings)}",
            key=key,
            value=given,
            allowed=", ".join(siblings),
        )
    if kind == "missing":
        # The docstring of the missing field is the remedy.
        field = owner.model_fields.get(steps[-1]) if owner else None
        what = field.description if field else None
        return UserError("is missing", key=key, remedy=what or "add the block, as in quickstart.yaml")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _unknown_tag(key, given, context, owner, steps)
    if kind == "literal_error":
        field = owner.model_fields.get(steps[-1]) if owner else None
        choices = _literals(field.annotation) if field else ()
        allowed = ", ".join(map(str, choices)) or str(context.get("expected", ""))
        return UserError(
            f"is none of the choices.{did_you_mean(given, choices)}", key=key, value=given, allowed=allowed
        )
    if kind in NAMES_OF_TYPES:
        return UserError("has the wrong type", key=key, value=given, allowed=NAMES_OF_TYPES[kind])
    if kind == "value_error":
        # A validator over a whole block has the relevant values in its message, so the block is not shown.
        value = None if isinstance(given, BaseModel | Mapping) else given
        return UserError(str(context["error"]), key=key, value=value)
    # What remains are bounds, which pydantic describes as "Input should be greater than 0".
    allowed = details["msg"].removeprefix("Input should be ").removeprefix("Value should be ")
    return UserError("is out of range", key=key, value=given, allowed=allowed)


def _unknown_tag(
    key: str | None,
    given: Any,
    context: Mapping[str, Any],
    owner: type[BaseModel] | None,
    steps: Sequence[str],
) -> UserError:
    """Builds the error for a missing or unknown discriminator of a union, such as `data.benchmark`."""
    name = str(context["discriminator"]).strip("'")
    annotation = owner.model_fields[steps[-1]].annotation if owner and steps else None
    tags = [tag for member in get_args(annotation) for tag in _literals(member.model_fields[name].annotation)]
    value = given.get(name) if isinstance(given, Mapping) else given
    message = "is missing" if value is None else f"is none of the choices.{did_you_mean(value, tags)}"
    return UserError(message, key=f"{key}.{name}", value=value, allowed=", ".join(map(str, tags)))


def _walk(loc: Sequence[int | str], settings: type[BaseModel]) -> tuple[list[str], type[BaseModel] | None]:
    """Returns the dotted steps of an error, and the class that declares (or should declare) the last step.

    Pydantic's location also names the member of a union. The file does not contain this name, so it is left
    out.
    """
    steps: list[str] = []
    owner: type[BaseModel] | None = settings
    annotation: Any = settings
    for place in loc:
        is_union = get_origin(annotation) in (typing.Union, types.UnionType)
        members = get_args(annotation) if is_union else ()
        tagged = [member for member in members if _is_block(member) and place in _tags(member)]
        if tagged:
            annotation = tagged[0]
            continue
        steps.append(str(place))
        owner = annotation if _is_block(annotation) else None
        field = owner.model_fields.get(str(place)) if owner else None
        # Below a mapping such as `space`, the next place is a key and not a field.
        below = get_args(annotation)[1] if get_origin(annotation) is dict else None
        annotation = field.annotation if field else below
    return steps, owner


def _is_block(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _tags(block: type[BaseModel]) -> tuple[Any, ...]:
    """Returns the values by which a union can select the block, such as `tofu` for `TofuData`."""
    annotations = [field.annotation for field in block.model_fields.values()]
    literals = [annotation for annotation in annotations if get_origin(annotation) is typing.Literal]
    return tuple(tag for literal in literals for tag in get_args(literal))


def _literals(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is typing.Literal:
        return get_args(annotation)
    return tuple(value for member in get_args(annotation) for value in _literals(member))
