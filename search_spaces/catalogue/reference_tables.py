"""Generates the reference tables of the documentation from the settings classes and the catalogues.

A test compares the tables in the documentation with the generated ones.
"""

import typing
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from search_spaces.catalogue.method_catalogue import METHODS, MethodInfo
from search_spaces.catalogue.metric_catalogue import METRICS, MetricInfo
from search_spaces.catalogue.recipes import RECIPES
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import shown

BOUNDS = {Ge: (">=", "ge"), Gt: (">", "gt"), Le: ("<=", "le"), Lt: ("<", "lt")}
SKIPPED = frozenset({"space"})
"""Blocks that the documentation describes in prose instead of table rows."""
NAMED = "METRIC."
"""Placeholder for the keys of a mapping of blocks."""


def settings_table() -> str:
    """Generates the Markdown tables of all settings: one table per block, one row per key."""
    blocks: dict[str, list[str]] = {}
    for block, row in _rows(SweepSettings, ""):
        blocks.setdefault(block, []).append(row)
    return "\n\n".join(
        f"**{block}**\n\n| key | allowed | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows)
        for block, rows in blocks.items()
    )


def method_table() -> str:
    """Generates the Markdown table of methods: one row per method."""
    titles = (
        "`forget.method`",
        "name",
        "loss per forget example, minimised, in nats",
        "published defaults",
        "needs beside the policy",
    )
    lines = [f"| {' | '.join((*titles, 'beliefs', 'source'))} |", "|---|---|---|---|---|---|---|"]
    for key, info in METHODS.items():
        cells = (
            f"`{key}`",
            info.name,
            info.formula.replace("|", ""),
            _published(key),
            _needs(info),
            _beliefs(info),
            info.paper,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _published(method: str) -> str:
    """Formats the settings of a method's recipe, without those that most recipes share."""
    usual = {
        "forget.method": method,
        "forget.weight": 1.0,
        "retain.loss": "nll",
        "retain.weight": 1.0,
        "beliefs": "none",
    }
    settings = {key: value for key, value in RECIPES[method].settings.items() if usual.get(key) != value}
    # The prefix with the method's own block is left out, because each row is about one method.
    return ", ".join(
        f"{key.removeprefix('forget.').removeprefix(f'{method}.')} {shown(value)}"
        for key, value in settings.items()
    )


def _needs(info: MethodInfo) -> str:
    """Describes which memory and forward passes a method needs in addition to cross-entropy."""
    needs = []
    if info.preferred_answers:
        needs.append("another sequence per forget example in each forward pass")
    if info.needs_reference:
        needs.append("the original's log-probability of each forget token, once per sweep")
    if info.reference_logits:
        needs.append("the original's head (V x H), and a forward pass of the original at each step")
    if info.activations:
        needs.append("a forward pass of the original up to the layer at each step; nothing above the layer")
    return "; ".join(needs)


ARROWS = {"minimize": "↓", "maximize": "↑", None: "·"}


def metric_table() -> str:
    """Generates the Markdown table of metrics: one row per definition, with all metrics that share it."""
    rows: dict[tuple[str, str], list[tuple[str, MetricInfo]]] = {}
    common = Counter(info.description.partition(": ")[2] for info in METRICS.values())
    for name, info in METRICS.items():
        definition = info.description.partition(": ")[2] or info.description
        # A description is `SET: DEFINITION`. A definition of a single metric keeps the name of its set.
        rows.setdefault(
            (definition if common[definition] > 1 else info.description, _range(info)), []
        ).append((name, info))
    lines = [
        "| metric (↓ lower is better, ↑ higher, · neither) | definition | range | needs |",
        "|---|---|---|---|",
    ]
    for (definition, ends), metrics in rows.items():
        names = ", ".join(f"`{name}` {ARROWS[info.direction]}" for name, info in metrics)
        needs = sorted({need.replace("_", " ") for _, info in metrics for need in info.needs})
        lines.append(f"| {names} | {definition} | {ends} | {', '.join(needs)} |")
    return "\n".join(lines)


def _range(info: MetricInfo) -> str:
    low, high = (f"{end:g}".replace("inf", "∞") for end in info.range)
    return f"{low} to {high}"


def _beliefs(info: MethodInfo) -> str:
    return "token, sequence" if info.token_beliefs else "sequence"


def _rows(settings: type[BaseModel], prefix: str, title: str = "Top level") -> Iterator[tuple[str, str]]:
    """Yields pairs of a table's title and one of its rows, recursively for all blocks."""
    for name, field in settings.model_fields.items():
        members = [
            member
            for member in _members(field.annotation)
            if isinstance(member, type) and issubclass(member, BaseModel)
        ]
        if not prefix and name in SKIPPED:
            continue
        if not members:
            meaning = " ".join((field.description or "").split()).replace("|", "\\|")
            yield title, f"| `{prefix}{name}` | {_allowed(field)} | {_default(field)} | {meaning} |"
        inner = f"{prefix}{name}.{NAMED if get_origin(field.annotation) is dict else ''}"
        for member in members:
            # The title of a union's member names its benchmark, which distinguishes the members.
            which = (
                f" with `benchmark: {member.model_fields['benchmark'].default}`" if len(members) > 1 else ""
            )
            yield from _rows(member, inner, title if prefix else f"`{name}`{which}")


def _members(annotation: Any) -> tuple[Any, ...]:
    return (annotation,) if isinstance(annotation, type) else get_args(annotation)


def _allowed(field: FieldInfo) -> str:
    return " ".join(filter(None, [_type(field.annotation), _bounds(field.metadata)]))


def _type(annotation: Any) -> str:
    if annotation is type(None):
        return ""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    # Bounds inside a union, such as `Annotated[int, Field(ge=0)] | None`, are not in the field's metadata.
    if get_origin(annotation) is typing.Annotated:
        inner, *metadata = get_args(annotation)
        bounds = [datum for item in metadata for datum in getattr(item, "metadata", [item])]
        return " ".join(filter(None, [_type(inner), _bounds(bounds)]))
    if get_origin(annotation) is dict:
        return "mapping"
    if get_origin(annotation) is tuple:
        return "list" if ... in get_args(annotation) else f"list of {len(get_args(annotation))} numbers"
    if isinstance(annotation, type):
        return {"int": "whole number", "float": "number", "str": "text", "bool": "true, false"}[
            annotation.__name__
        ]
    return " or ".join(filter(None, map(_type, get_args(annotation))))


def _bounds(metadata: list[Any]) -> str:
    return ", ".join(
        f"{BOUNDS[type(item)][0]} {getattr(item, BOUNDS[type(item)][1])}"
        for item in metadata
        if type(item) in BOUNDS
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    return "" if default is None or default == "" else f"`{shown(default)}`".replace('"', "")
