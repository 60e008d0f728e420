"""Prints tables and lines on a terminal, readable at 80 columns and in a pipe."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from orchestrator.table import Table

GAP = 2
"""Spaces between the columns of a table without lines."""

INDENT = "    "
"""Before what is printed below a row."""


def say(console: Console, line: str, style: str = "", *, wrap: bool = False) -> None:
    """Prints a line as it is, without markup or highlighting.

    Args:
        console: Where to print it.
        line: The line. It stays whole, so that commands and paths can be copied and pipes can be searched.
        style: Its colour.
        wrap: Whether to wrap it at spaces: for paragraphs of prose.
    """
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=not wrap)


@dataclass(frozen=True)
class ShownTable:
    """A table that rich can print, whole or as part of a live display.

    Where the table fits into the width, it is printed with lines around its cells. Where it does not, it is
    printed without lines, long cells below their row, and columns that still do not fit in a further block
    under the same first column. No value is cut off, and words are broken only if one alone is too wide.
    """

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yields what rich prints."""
        if self.table.title:
            yield Text(self.table.title, style="bold")
        widths = _whole_widths(self.table)
        # Each cell has a space at either side and a line at its left, and the last one a line at its right.
        if sum(widths) + 3 * len(widths) + 1 <= options.max_width:
            yield _with_lines(self.table)
        else:
            for line in _without_lines(self.table, options.max_width):
                yield Text(line, no_wrap=True, overflow="ignore")


def rich_table(table: Table) -> ShownTable:
    """Returns a table that rich can print."""
    return ShownTable(table)


def _cells_by_column(table: Table) -> list[tuple[str, ...]]:
    return list(zip(table.titles, *table.body_texts, *table.foot_texts, strict=True))


def _with_lines(table: Table) -> RichTable:
    drawn = RichTable()
    for column in table.columns:
        drawn.add_column(Text(column.title), justify="right" if column.right else "left", no_wrap=True)
    for row in table.body_texts:
        drawn.add_row(*map(_styled, row))
    drawn.add_section()
    for row in table.foot_texts:
        drawn.add_row(*map(_styled, row))
    return drawn


def _styled(cell: str) -> Text:
    """Colours the states of trials, which are what people look for in long tables."""
    if cell.startswith("on the front"):
        return Text(cell, style="green")
    return Text(cell, style="red" if cell.startswith("failed") else "")


def _without_lines(table: Table, width: int) -> Iterator[str]:
    short = [index for index, column in enumerate(table.columns) if not column.long]
    long = [index for index, column in enumerate(table.columns) if column.long]
    blocks = _blocks(table, short, width)
    for number, (widths, gap) in enumerate(blocks):
        if number:
            yield ""
        below = long if number == len(blocks) - 1 else []
        yield from _block(table, widths, gap, width, below)


def _blocks(table: Table, short: Sequence[int], width: int) -> list[tuple[dict[int, int], int]]:
    """Distributes columns over blocks that fit into the width; the first column begins each of them.

    Returns:
        For each block the widths of its columns, and the spaces between them.
    """
    whole, natural, narrowest = _whole_widths(table), _natural_widths(table), _narrowest_widths(table)
    for gap in (GAP, 1):
        widths = {index: whole[index] for index in short}
        # Titles are wrapped before cells: that costs lines only once.
        for floor in (natural, narrowest):
            _shrink(widths, floor, width - gap * (len(short) - 1))
        if sum(widths.values()) + gap * (len(short) - 1) <= width:
            return [(widths, gap)]
    # No column is wider than half of the width here, so that any two fit beside each other.
    natural = [min(size, (width - GAP) // 2) for size in natural]
    first, *others = short
    blocks = [{first: natural[first]}]
    for index in others:
        if len(blocks[-1]) > 1 and sum(GAP + size for size in blocks[-1].values()) + natural[index] > width:
            blocks.append({first: natural[first]})
        blocks[-1][index] = natural[index]
    return [(block, GAP) for block in blocks]


def _shrink(widths: dict[int, int], floor: Sequence[int], room: int) -> None:
    """Narrows the columns, the one farthest above its floor first, until they fit or none can give way."""
    while sum(widths.values()) > room:
        widest = max(widths, key=lambda index: widths[index] - floor[index])
        if widths[widest] <= floor[widest]:
            return
        widths[widest] -= 1


def _whole_widths(table: Table) -> list[int]:
    """Returns the columns' widths with cells and titles in one line."""
    return [max(map(cell_len, cells)) for cells in _cells_by_column(table)]


def _natural_widths(table: Table) -> list[int]:
    """Returns the columns' widths with cells in one line and titles wrapped at spaces."""
    columns = ([*title.split(), *cells] for title, *cells in _cells_by_column(table))
    return [max(map(cell_len, column), default=0) for column in columns]


def _narrowest_widths(table: Table) -> list[int]:
    """Returns the columns' widths with cells and titles wrapped at every space."""
    words = ([word for cell in cells for word in cell.split()] for cells in _cells_by_column(table))
    return [max(map(cell_len, column), default=0) for column in words]


def _block(
    table: Table, widths: Mapping[int, int], gap: int, width: int, below: Sequence[int]
) -> Iterator[str]:
    right = [table.columns[index].right for index in widths]

    def lines(row: Sequence[str]) -> Iterator[str]:
        wrapped = [_wrapped(row[index], size) for index, size in widths.items()]
        for cells in zip_longest(*wrapped, fillvalue=""):
            yield _joined(cells, list(widths.values()), right, gap)

    rule = (" " * gap).join("─" * size for size in widths.values())
    yield from lines(table.titles)
    yield rule
    for number, row in enumerate([*table.body_texts, *table.foot_texts]):
        if number == len(table.rows) and number:
            yield rule
        yield from lines(row)
        for index in below:
            if row[index]:
                yield from _below(f"{table.columns[index].title}: {row[index]}", width)


def _joined(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool], gap: int) -> str:
    padded = []
    for cell, size, is_right in zip(cells, widths, right, strict=True):
        space = " " * (size - cell_len(cell))
        padded.append(space + cell if is_right else cell + space)
    return (" " * gap).join(padded).rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    # Leading spaces indent a row's name below another's.
    start = text[: len(text) - len(text.lstrip())]
    return textwrap.wrap(text, max(1, width), break_on_hyphens=False, subsequent_indent=start) or [""]


def _below(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=INDENT,
        subsequent_indent=INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
