import base64
import json
import zlib
from pathlib import Path

import pytest

from orchestrator.tracking.saved_view import (
    MOST_CONDITIONS,
    RUNS_LOADED,
    TAG,
    is_supported,
    saved_view,
    view_path,
)
from search_spaces.loading.loader import load_sweep, packaged_sweeps
from tests.support.sweeps.finished_sweep import sweep
from tests.support.tiny_benchmarks import own_files

OBJECTIVES = ["test/forget_true_mass", "test/utility"]


def view(**more):
    return saved_view(sweep(**more), "0a1b", 1234)


def state(**more):
    packed = json.loads(view(**more).value)["state"]
    assert packed.startswith("deflate;")
    return json.loads(zlib.decompress(base64.b64decode(packed.removeprefix("deflate;"))))


def charts(found, kind):
    return [chart for chart in found["compareRunCharts"] if chart["type"] == kind]


def axes(chart):
    return chart["xaxis"]["key"], chart["yaxis"]["key"]


def test_view_is_named_after_the_sweep_and_its_time():
    written = json.loads(view(name="mine").value)
    assert (written["name"], written["createdAt"], view().name) == ("mine", 1234, "lethe-0a1b")


def test_view_is_the_same_at_every_start():
    assert view() == view()


def test_scatter_has_the_two_objectives_of_the_test_part():
    (chart,) = charts(state(), "SCATTER")
    assert axes(chart) == tuple(OBJECTIVES)
    assert chart["runsCountToCompare"] == RUNS_LOADED


def test_three_objectives_have_a_scatter_for_each_pair_side_by_side():
    third = {"retain_true_mass": {"direction": "maximize", "reference": 0.0}}
    found = state(objectives={**sweep().model_dump()["objectives"], **third})
    assert [axes(chart) for chart in charts(found, "SCATTER")] == [
        ("test/forget_true_mass", "test/utility"),
        ("test/forget_true_mass", "test/retain_true_mass"),
        ("test/utility", "test/retain_true_mass"),
    ]
    assert found["compareRunSections"][0]["columns"] == 3


def test_parallel_coordinates_hold_only_keys_that_some_trials_have_together():
    plots = charts(state(), "PARALLEL")
    always = ["forget.method", "beliefs", "optimizer.learning_rate", "retain.weight"]
    token = ["token_belief.top_k", "token_belief.temperature", "token_belief.weight"]
    sequence = ["sequence_belief.temperature", "sequence_belief.weight"]
    given = [key for key in always if key != "beliefs"]
    assert [plot["selectedParams"] for plot in plots] == [always, given + token, given + sequence]
    assert all(plot["selectedMetrics"] == OBJECTIVES for plot in plots)


def test_key_that_a_condition_leaves_two_values_keeps_its_axis():
    space = {
        "beliefs": {"choice": ["none", "token", "sequence"]},
        "retain.weight": {"uniform": [0.0, 1.0], "when": {"beliefs": ["token", "sequence"]}},
    }
    assert [plot["selectedParams"] for plot in charts(state(space=space), "PARALLEL")] == [
        ["beliefs"],
        ["beliefs", "retain.weight"],
    ]


def test_parallel_coordinates_are_few_however_many_conditions_there_are():
    methods = ("graddiff", "npo", "dpo", "rmu", "simnpo")
    space = {"forget.method": {"choice": list(methods)}}
    space |= {
        f"forget.{method}.weight": {"uniform": [0.0, 1.0], "when": {"forget.method": method}}
        for method in methods
    }
    assert len(charts(state(space=space), "PARALLEL")) == 1 + MOST_CONDITIONS


def test_every_chart_is_in_a_section_and_no_name_is_used_twice():
    found = state()
    sections = {section["uuid"] for section in found["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in found["compareRunCharts"]} == sections
    identifiers = [part["uuid"] for part in found["compareRunCharts"] + found["compareRunSections"]]
    assert len(identifiers) == len(set(identifiers))


def test_columns_are_objectives_tags_and_searched_settings():
    columns = state()["selectedColumns"]
    assert columns[:6] == [
        "metrics.`test/forget_true_mass`",
        "metrics.`test/utility`",
        "tags.`method`",
        "tags.`beliefs`",
        "tags.`status`",
        "tags.`pareto.front`",
    ]
    assert columns[6:] == [f"params.`{key}`" for key in sweep().space]


def test_all_trials_of_this_sweep_are_shown_front_first():
    found = state()
    kinds = "tags.`lethe.kind` != 'confirmation' and tags.`lethe.kind` != 'audit'"
    assert found["searchFilter"] == f"tags.`lethe.sweep_id` = '0a1b' and {kinds}"
    assert (found["runsHiddenMode"], found["orderByKey"], found["orderByAsc"]) == (
        "SHOW_ALL",
        "tags.`pareto.front`",
        False,
    )


@pytest.mark.parametrize(
    ("version", "known"),
    [
        ("3.14.1", False),
        ("3.15.0", True),
        ("3.17.2", True),
        ("3.17.3rc1", True),
        ("3.18.0", False),
        ("4.0", False),
        ("hosted", False),
    ],
)
def test_untried_versions_are_not_supported(version, known):
    assert is_supported(version) is known


@pytest.mark.parametrize("name", packaged_sweeps())
def test_view_of_every_shipped_sweep_fits_into_a_tag(name, tmp_path):
    assert saved_view(load_sweep(Path(name), own_files(name, tmp_path)), "0" * 32, 0).fits


def test_view_of_a_huge_sweep_does_not_fit():
    space = {
        f"a{number * 7919 % 100003}.b{number**3 % 99991}": {"uniform": [0.0, 1.0]} for number in range(6000)
    }
    assert not view(space=space).fits


def test_path_opens_the_charts_of_the_experiment():
    assert (
        view_path("7", "lethe-0a1b")
        == "/#/experiments/7/runs?viewStateShareKey=lethe-0a1b&compareRunsMode=CHART"
    )
    assert TAG == "mlflow.sharedViewState."
