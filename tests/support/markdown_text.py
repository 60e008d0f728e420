"""Markdown as tests read it: code blocks, code spans, links and headings. Enough for our pages."""

import re

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def code_blocks(text, language=None):
    """Contents of the fenced blocks, of one language where it is given."""
    return [block for name, block in _FENCE.findall(text) if language in (None, name)]


def without_code_blocks(text):
    """The text with empty lines in place of fenced blocks."""
    return _FENCE.sub(lambda found: "\n" * found[0].count("\n"), text)


def code_spans(text):
    """Contents of `inline code`."""
    return _SPAN.findall(without_code_blocks(text))


def prose(text):
    """The text without any code."""
    return _SPAN.sub(" ", without_code_blocks(text))


def link_targets(text):
    """Where links and pictures lead."""
    return _LINK.findall(prose(text))


def anchors(text):
    """The anchors of all headings, as GitHub makes them: the second of one name gets `-1`."""
    found = []
    for heading in re.findall(r"^#+ (.*)$", without_code_blocks(text), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        seen = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other) is not None for other in found)
        found.append(f"{slug}-{seen}" if seen else slug)
    return found


def section(text, heading):
    """What stands under a heading, up to the next one of its level."""
    (found,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found


def shell_lines(block):
    """Lines of a shell block: continued ones joined, comments taken off."""
    joined = re.sub(r"\\\n\s*|(?<=&&)\n", " ", block)
    return [re.sub(r"(^|\s)#.*", "", line) for line in joined.splitlines()]


def code_pieces(text):
    """Every line of a code block and every code span: where commands, options and paths are named."""
    return [line for block in code_blocks(text) for line in shell_lines(block)] + code_spans(text)
