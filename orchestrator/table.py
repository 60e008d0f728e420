"""One table of plain data for every medium: HTML, Markdown and CSV here, the terminal in `terminal/`."""

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
    """The heading that people read."""
    show: Callable[[Any], str] = str
    """Formats a cell for people; CSV holds the cell itself."""
    key: str = ""
    """The column's name in `Table.select` and in CSV; the title where it is empty."""
    long: bool = False
    """Whether cells are sentences or lists, which a narrow terminal prints below their row."""
    right: bool = False
    """Whether a terminal aligns the cells to the right."""

    @property
    def name(self) -> str:
        """The column's name in `Table.select` and in CSV."""
        return self.key or self.title

    def text(self, cell: Any) -> str:
        """Returns a cell as people read it; an absent value is empty."""
        return "" if cell is None else self.show(cell)


@dataclass(frozen=True)
class Table:
    """Columns and rows of cells."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    """One cell per column; None where there is no value."""
    foot: Sequence[Sequence[Any]] = ()
    """Rows that the others are compared with, under a line of their own."""
    title: str = ""

    def select(self, *names: str) -> "Table":
        """Returns the table with these columns only, in this order."""
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
        """The rows above the foot as people read them."""
        return self._texts(self.rows)

    @property
    def foot_texts(self) -> list[list[str]]:
        """The rows of the foot as people read them."""
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
        """Returns the table as Markdown, the names of the foot's rows in italics."""
        foot = [[f"*{row[0]}*", *row[1:]] for row in self.foot_texts]
        lines = [self.titles, ["---"] * len(self.columns), *self.body_texts, *foot]
        return "\n".join(f"| {' | '.join(map(_markdown_cell, line))} |" for line in lines)

    def csv(self) -> str:
        """Returns the table as CSV, numbers in full precision."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([column.name for column in self.columns])
        writer.writerows([*self.rows, *self.foot])
        return text.getvalue()


def columns(*titles: str) -> list[Column]:
    """Returns columns of plain text."""
    return [Column(title) for title in titles]


def _html_rows(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)


def _markdown_cell(text: str) -> str:
    # A bar would end its cell, and a line break its row.
    return text.replace("|", "\\|").replace("\n", " ")
