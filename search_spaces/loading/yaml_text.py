"""Reading YAML strictly: a key twice is an error, and `1e-5` is a number."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from search_spaces.user_errors import UserError


class _StrictLoader(yaml.SafeLoader):
    """YAML 1.1 as in PyYAML, but strict where it would silently do something else than its author meant."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key} is there twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# PyYAML takes 1e-5 for text, because YAML 1.1 wants 1.0e-5; people, and YAML 1.2, mean a number.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


MOST_NODES = 100_000
"""Values of a file with all its aliases written out: a few nested aliases (a "YAML bomb") make billions,
which nobody means."""


def _values(text: str) -> Any:
    loader = _StrictLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _nodes_written_out(node, {})
        # A subclass of SafeLoader: plain values only, no Python objects.
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _nodes_written_out(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node means; `known` holds those that were counted, and 0 for those that are being
    counted."""
    if id(node) in known:
        if not known[id(node)]:
            raise yaml.constructor.ConstructorError(
                None, None, "an alias stands inside what it means", node.start_mark
            )
        return known[id(node)]
    known[id(node)] = 0
    inside: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        inside = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        inside = node.value
    total = 1 + sum(_nodes_written_out(part, known) for part in inside)
    if total > MOST_NODES:
        raise yaml.constructor.ConstructorError(
            None, None, f"more than {MOST_NODES} values with all aliases written out", node.start_mark
        )
    known[id(node)] = total
    return total


def parse_yaml(text: str, file: object, key: str | None = None) -> Any:
    """Plain values from YAML text.

    Args:
        text: one document.
        file: where it comes from, for messages.
        key: what it is the value of, for text from a command line.

    Raises:
        UserError: malformed text, or a key twice in one mapping; names the line.
    """
    remedy = "mend that place: blocks are indented by spaces, and a text with : or # in it stands in quotes"
    try:
        return _values(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{file}:{mark.line + 1}" if mark and key is None else file
        raise UserError(
            f"not readable as YAML: {error.problem or error.context}",
            file=place,
            key=key,
            value=text if key else None,
            remedy=remedy,
        ) from error
    except RecursionError as error:
        raise UserError(
            "not readable as YAML: nested too deeply",
            file=file,
            key=key,
            remedy="write a sweep file by its grammar",
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(
            f"not readable as YAML: {error}", file=file, key=key, value=text if key else None, remedy=remedy
        ) from error


def read_yaml(path: Path, shown_as: object) -> dict[str, Any]:
    """The mapping in a file.

    Raises:
        UserError: not readable, not YAML, or no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot be read: {error.strerror}",
            file=shown_as,
            remedy="give a YAML file that describes a sweep",
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"is not UTF-8 text: {error.reason}",
            file=shown_as,
            remedy="give a YAML file that describes a sweep",
        ) from error
    content = parse_yaml(text, shown_as)
    if not isinstance(content, dict):
        found = "empty" if content is None else f"a {type(content).__name__}"
        raise UserError(
            f"a sweep file holds a mapping, and this one is {found}",
            file=shown_as,
            allowed="keys such as model, data, space",
        )
    return content
