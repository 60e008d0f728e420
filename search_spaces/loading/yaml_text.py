"""Reads YAML strictly: a duplicate key is an error, and `1e-5` is a number."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from search_spaces.user_errors import UserError

WRONG_FILE = "give a YAML file that describes a sweep"
MOST_NODES = 100_000
"""Limit on the values of a file with all aliases expanded; nested aliases (a "YAML bomb") make billions."""


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's YAML 1.1, but strict where it would silently do something else than intended."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Constructs a mapping, and refuses a key that occurs twice."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            # PyYAML keeps the last of several equal keys without a warning. Merge keys (<<) may be repeated.
            if key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key} occurs twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# PyYAML reads 1e-5 as text, because YAML 1.1 requires 1.0e-5. In YAML 1.2 it is a number.
_NUMBER_WITH_EXPONENT = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
_StrictLoader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER_WITH_EXPONENT, list("-+0123456789."))


def _values(text: str) -> Any:
    loader = _StrictLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        # Before the document is constructed, which would expand all aliases in memory.
        _expanded_nodes(node, {})
        # A subclass of SafeLoader: plain values only, no Python objects.
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _expanded_nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """Counts the values of a node with all aliases expanded.

    Args:
        node: The node to count.
        known: Id of a node -> its count; 0 while the node is being counted.
    """
    if id(node) in known:
        # The node is reached again while it is being counted, so it contains itself.
        if not known[id(node)]:
            raise yaml.constructor.ConstructorError(
                None, None, "an alias is part of the value that it refers to", node.start_mark
            )
        return known[id(node)]
    known[id(node)] = 0
    inside: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        inside = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        inside = node.value
    total = 1 + sum(_expanded_nodes(part, known) for part in inside)
    if total > MOST_NODES:
        raise yaml.constructor.ConstructorError(
            None, None, f"more than {MOST_NODES} values with all aliases expanded", node.start_mark
        )
    known[id(node)] = total
    return total


def parse_yaml(text: str, file: object, key: str | None = None) -> Any:
    """Parses YAML text into plain values.

    Args:
        text: One YAML document.
        file: Source of the text, for messages.
        key: The key whose value the text is, for text from the command line.

    Raises:
        UserError: The text is malformed, or a mapping has a key twice; the message names the line.
    """
    remedy = "correct it: blocks are indented by spaces, and text with : or # in it needs quotes"
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
        problem = "not readable as YAML: nested too deeply"
        raise UserError(problem, file=file, key=key, remedy=WRONG_FILE) from error
    # ValueError: PyYAML raises it for impossible dates, among others.
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(
            f"not readable as YAML: {error}", file=file, key=key, value=text if key else None, remedy=remedy
        ) from error


def read_yaml(path: Path, shown_as: object) -> dict[str, Any]:
    """Reads a file that holds a mapping.

    Args:
        path: The file.
        shown_as: Name of the file in messages.

    Raises:
        UserError: The file cannot be read, is not YAML, or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", file=shown_as, remedy=WRONG_FILE) from error
    except UnicodeDecodeError as error:
        raise UserError(f"is not UTF-8 text: {error.reason}", file=shown_as, remedy=WRONG_FILE) from error
    content = parse_yaml(text, shown_as)
    if not isinstance(content, dict):
        found = "empty" if content is None else f"a {type(content).__name__}"
        raise UserError(
            f"a sweep file holds a mapping, and this one is {found}",
            file=shown_as,
            allowed="keys such as model, data, space",
        )
    return content
