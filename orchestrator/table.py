"""Tables of plain data, rendered as HTML, Markdown and CSV; `terminal/rich_tables.py` prints them."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    title: str
    """The heading."""
    show: Callable[[Any], str] = str
    """Formats a cell as text; CSV contains the unformatted cell."""
    key: str = ""
    """The column's name in `Table.select` and in CSV; if empty, the title."""
    long: bool = False
    """Whether cells are sentences or lists, which are printed below their row on a narrow terminal."""
    right: bool = False
    """Whether a terminal aligns the cells to the right."""

    @property
    def name(self) -> str:
        """The column's name in `Table.select` and in CSV."""
        return self.key or self.title

    def text(self, cell: Any) -> str:
        """Returns a cell as text; an absent value is empty."""
        return "" if cell is None else self.show(cell)


@dataclass(frozen=True)
class Table:
    """Columns and rows of cells."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    """One cell per column; None for an absent value."""
    foot: Sequence[Sequence[Any]] = ()
    """Rows below a line, with which the other rows are compared, such as baselines."""
    title: str = ""
    """A title, which only terminals print."""

    def select(self, *names: str) -> "Table":
        """Returns the table with only the named columns, in the given order.

        Raises:
            KeyError: There is no column of that name.
        """
        place = {column.name: index for index, column in enumerate(self.columns)}
        chosen = [place[name] for name in names]
        rows, foot = ([[row[index] for index in chosen] for row in part] for part in (self.rows, self.foot))
        return replace(self, columns=[self.columns[index] for index in chosen], rows=rows, foot=foot)

    @property
    def titles(self) -> list[str]:
        """The columns' headings."""
        return [column.title for column in self.columns]

    @property
    def body_texts(self) -> list[list[str]]:
        """The rows above the foot as text."""
        return self._texts(self.rows)

    @property
    def foot_texts(self) -> list[list[str]]:
        """The rows of the foot as text."""
        return self._texts(self.foot)

    def _texts(self, rows: Sequence[Sequence[Any]]) -> list[list[str]]:
        return [[column.text(cell) for column, cell in zip(self.columns, row, strict=True)] for row in rows]

    def html(self) -> str:
        """Returns the table as HTML."""
        head = "".join(f"<th>{escape(title)}</th>" for title in self.titles)
        foot = f"\n<tfoot>\n{_html_rows(self.foot_texts)}\n</tfoot>" if self.foot else ""
        return (
            f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n'
            f"<tbody>\n{_html_rows(self.body_texts)}\n</tbody>{foot}</table></div>"
        )

    def markdown(self) -> str:
        """Returns the table as Markdown, with the first cells of the foot in italics."""
        foot = [[f"*{row[0]}*", *row[1:]] for row in self.foot_texts]
        lines = [self.titles, ["---"] * len(self.columns), *self.body_texts, *foot]
        return "\n".join(f"| {' | '.join(map(_markdown_cell, line))} |" for line in lines)

    def csv(self) -> str:
        """Returns the table as CSV with numbers in full precision."""
        text = io.StringIO()
        # The writer's default would be carriage returns, as on Windows.
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([column.name for column in self.columns])
        writer.writerows([*self.rows, *self.foot])
        return text.getvalue()


def columns(*titles: str) -> list[Column]:
    """Returns one column of plain text per title."""
    return [Column(title) for title in titles]


def _html_rows(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)


def _markdown_cell(text: str) -> str:
    # A bar would end its cell, and a line break its row.
    return text.replace("|", "\\|").replace("\n", " ")
