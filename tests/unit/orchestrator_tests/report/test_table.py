import csv
import io

from orchestrator.table import Column, Table, columns

TABLE = Table(
    [Column("trial"), Column("mass (minimize)", "{:.2f}".format, "mass"), Column("reason", long=True)],
    [["t0001", 0.123456, None], ["t0002", None, "a|b <c>"]],
    [["original", 1.0, None]],
)


def test_people_see_formatted_cells_and_no_value_as_nothing():
    assert TABLE.body_texts == [["t0001", "0.12", ""], ["t0002", "", "a|b <c>"]]
    assert TABLE.foot_texts == [["original", "1.00", ""]]


def test_select_takes_columns_by_name_in_the_order_asked_for():
    chosen = TABLE.select("mass", "trial")
    assert chosen.titles == ["mass (minimize)", "trial"]
    assert chosen.rows == [[0.123456, "t0001"], [None, "t0002"]] and chosen.foot == [[1.0, "original"]]


def test_html_escapes_cells_and_sets_the_foot_apart():
    html = TABLE.html()
    assert "<th>mass (minimize)</th>" in html and "<td>a|b &lt;c&gt;</td>" in html
    assert html.index("<tfoot>") < html.index("<td>original</td>")
    assert "<tfoot>" not in Table(columns("a"), [["b"]]).html()


def test_markdown_keeps_bars_and_line_breaks_inside_their_cells():
    assert Table(columns("a", "b"), [["x|y", "1\n2"]], [["c", "d"]]).markdown().splitlines() == [
        "| a | b |",
        "| --- | --- |",
        "| x\\|y | 1 2 |",
        "| *c* | d |",
    ]


def test_csv_names_columns_by_key_and_keeps_full_precision():
    rows = list(csv.reader(io.StringIO(TABLE.csv())))
    assert rows[0] == ["trial", "mass", "reason"]
    assert rows[1] == ["t0001", "0.123456", ""] and rows[3] == ["original", "1.0", ""]
