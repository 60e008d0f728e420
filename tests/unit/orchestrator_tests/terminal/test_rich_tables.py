import io
import re

import pytest
from rich.console import Console

from orchestrator.table import Column, Table, columns
from orchestrator.terminal.rich_tables import rich_table, say

PARAMS = "forget.method=npo, optimizer.learning_rate=0.000353, retain.weight=0.615, beliefs=token+sequence"
TABLE = Table(
    [Column("trial"), Column("forget_true_mass (minimize)"), Column("parameters", long=True)],
    [["t0001", "0.1234", PARAMS], ["t0002", "", ""]],
    [["original", "0.9", ""]],
    title="a title",
)


def printed(table, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(rich_table(table))
    return console.file.getvalue().splitlines()


def test_table_with_room_has_lines_around_its_cells():
    lines = printed(TABLE, 200)
    assert lines[0] == "a title"
    assert [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")] == [
        ["t0001", "0.1234", PARAMS],
        ["t0002", "", ""],
        ["original", "0.9", ""],
    ]


def test_narrow_table_prints_long_cells_below_their_row():
    assert printed(TABLE, 60) == [
        "a title",
        "trial     forget_true_mass (minimize)",
        "────────  ───────────────────────────",
        "t0001     0.1234",
        "    parameters: forget.method=npo,",
        "    optimizer.learning_rate=0.000353, retain.weight=0.615,",
        "    beliefs=token+sequence",
        "t0002",
        "────────  ───────────────────────────",
        "original  0.9",
    ]


def test_titles_are_wrapped_before_cells():
    table = Table(columns("trial", "a title of words", "status"), [["t0001", "0.1234", "on the front"]])
    assert printed(table, 32) == [
        "trial  a title of   status",
        "       words",
        "─────  ───────────  ────────────",
        "t0001  0.1234       on the front",
    ]


def test_columns_without_room_follow_in_a_block_under_the_first_column():
    wide = Table(columns("model", *(f"a_long_title_{number}" for number in range(3))), [["t0001", *"123"]])
    assert printed(wide, 40) == [
        "model  a_long_title_0  a_long_title_1",
        "─────  ──────────────  ──────────────",
        "t0001  1               2",
        "",
        "model  a_long_title_2",
        "─────  ──────────────",
        "t0001  3",
    ]


def test_cells_are_wrapped_at_spaces_before_columns_go_to_another_block():
    text = "on the front at rung 1, 2, 3"
    lines = printed(Table(columns("trial", "status", "mass"), [["t0001", text, "0.5"]]), 30)
    assert lines == [
        "trial  status             mass",
        "─────  ─────────────────  ────",
        "t0001  on the front at    0.5",
        "       rung 1, 2, 3",
    ]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_no_value_is_cut_off_and_no_line_is_too_long(width):
    path = "/home/me/models/a/very/long/path/of/a/model/without/a/space"
    table = Table(columns("model", *"abcdefgh"), [[path, *(f"{number / 7:.4f}" for number in range(8))]])
    lines = printed(table, width)
    assert all(len(line) <= width for line in lines)
    assert all(f"{number / 7:.4f}" in "\n".join(lines) for number in range(8))
    assert path in "".join(re.sub(r"\d\.\d{4}|[\s│]", "", line) for line in lines)


def test_numbers_stand_at_the_right_where_the_column_says_so():
    table = Table([Column("part"), Column("GiB", "{:.2f}".format, right=True)], [["a", 1.0], ["b", 10.0]])
    assert printed(table, 12)[2:] == ["a      1.00", "b     10.00"]


def test_empty_table_has_its_head():
    assert printed(Table(columns("trial", "status"), []), 200)[1].split() == [
        "┃",
        "trial",
        "┃",
        "status",
        "┃",
    ]
    assert printed(Table(columns("trial", "status"), []), 14) == ["trial  status", "─────  ──────"]


def test_cells_with_brackets_are_no_markup():
    lines = printed(Table(columns("reason"), [["[bold]full[/bold] [/tmp/x]"]]), 80)
    assert any("[bold]full[/bold] [/tmp/x]" in line for line in lines)


def test_said_line_stays_whole_unless_it_is_prose():
    console = Console(file=io.StringIO(), width=20)
    say(console, "a path of [many] words: /tmp/somewhere")
    assert console.file.getvalue() == "a path of [many] words: /tmp/somewhere\n"
    prose = Console(file=io.StringIO(), width=20)
    say(prose, "a sentence of several words", wrap=True)
    assert prose.file.getvalue() == "a sentence of \nseveral words\n"
