import math
from io import StringIO

import pytest
from rich.console import Console

from orchestrator.evaluation_logs.published import Recomputed
from orchestrator.evaluation_logs.scores import Scores
from orchestrator.terminal.score_tables import score_tables, scores_json, show_scores

SCORES = Scores(
    published={
        "privleak": Recomputed(-75.0, "against an AUC of .5"),
        "mia_zlib": Recomputed(0.5),
        "forget_quality": Recomputed(None, "give --retrained"),
    },
    splits={"mia_zlib": {"forget": math.inf, "holdout": 0.25}},
    ours={"mia_zlib": 0.5},
    missing={"privleak_abs": "give --retrained", "privleak": "not shown: the published one has a note"},
    logged_published={"mia_zlib": 0.5, "mia_zlib.forget": math.inf, "privleak": -74.0},
)


def shown(width):
    output = StringIO()
    show_scores(SCORES, Console(file=output, width=width))
    return output.getvalue()


def test_recomputed_values_stand_beside_those_of_the_file():
    published, ours = score_tables(SCORES)
    assert published.titles == ["metric", "recomputed", "in the file", "difference"]
    assert published.body_texts == [
        ["forget_quality", "", "", ""],
        ["mia_zlib", "0.5", "0.5", "0"],
        ["mia_zlib.forget", "inf", "inf", "0"],
        ["mia_zlib.holdout", "0.25", "", ""],
        ["privleak", "-75", "-74", "-1.0e+00"],
    ]
    assert (ours.titles, ours.body_texts) == (["metric", "recomputed"], [["mia_zlib", "0.5"]])


def test_kind_of_metric_without_a_value_has_no_table():
    assert score_tables(Scores({}, {}, {}, {})) == []


def test_each_restriction_is_one_line_below_the_tables():
    assert shown(80).splitlines()[-3:] == [
        "privleak: recomputed: against an AUC of .5",
        "forget_quality: not recomputed: give --retrained",
        "privleak_abs: not recomputed: give --retrained",
    ]


@pytest.mark.parametrize("width", [40, 80])
def test_no_line_of_a_table_is_wider_than_the_terminal(width):
    tables = shown(width).partition("privleak: recomputed")[0]
    assert max(map(len, tables.splitlines())) <= width and "…" not in tables


def test_json_has_null_for_what_is_not_a_finite_number():
    found = scores_json(SCORES)
    assert found["openunlearning"] == {"privleak": -75.0, "mia_zlib": 0.5, "forget_quality": None}
    assert found["mia_splits"] == {"mia_zlib": {"forget": None, "holdout": 0.25}}
    assert found["not_recomputed"]["openunlearning"] == {"forget_quality": "give --retrained"}
