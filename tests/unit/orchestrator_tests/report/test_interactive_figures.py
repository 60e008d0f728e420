from dataclasses import replace

import pytest

from orchestrator.pareto.front import build_front
from orchestrator.pareto.objectives import criteria_of
from orchestrator.report.figure_data import names_with_room, squeeze_groups
from orchestrator.report.interactive_figures import (
    front_figure,
    hypervolume_figure,
    importance_figure,
    parallel_figure,
    squeeze_figure,
)
from tests.support.sweeps.finished_sweep import records, sweep, view

CRITERIA = criteria_of(sweep())


def traces(figure):
    return {trace.name: trace for trace in figure.data}


def test_front_figure_draws_the_end_of_every_trial_and_every_member_beside_both_baselines():
    settings = view()
    front = settings.front
    found = traces(front_figure(settings))
    assert {
        "original model",
        "retrained model",
        "edge of the front",
        "NPO (plain)",
        "WGA + BS-S",
    } <= found.keys()
    names = [name for name in found if name.startswith(("GradDiff", "NPO", "WGA"))]
    earlier = sum(member.rung < len(member.record.rungs) for member in front.members)
    assert sum(len(found[name].x) for name in names) == 18 + earlier
    written = [text for name in names for text in found[name].text if text]
    assert {""} < {"", *written} <= {"", *(member.name for member in front.members)}


def test_names_that_would_cover_each_other_are_left_to_the_pointer():
    places = [(0.0, 0.0), (0.05, 0.03), (0.5, 0.03), (1.0, 1.0), (1.0, 1.0)]
    assert names_with_room(["a", "b", "c", "d", "e"], places) == ["a", "", "c", "d", ""]
    assert names_with_room(["a", "b"], [(0.5, 0.1), (0.5, 0.2)]) == ["a", "b"]
    assert names_with_room([], []) == []


def test_front_figure_says_of_a_member_which_rung_it_is_and_whether_its_trial_was_stopped():
    stopped = replace(records()[0], status="stopped", rungs=records()[0].rungs[:3])
    settings = view(records=[stopped])
    figure = front_figure(settings)
    hovers = {text.split("<br>")[0] for trace in figure.data if trace.hovertext for text in trace.hovertext}
    assert {"<b>t0000@1</b>, on the front, stopped", "<b>t0000</b>, on the front, stopped"} <= hovers


def test_front_figure_says_which_way_is_better():
    settings = view()
    figure = front_figure(settings)
    assert "lower is better" in figure.layout.xaxis.title.text
    assert "higher is better" in figure.layout.yaxis.title.text


def test_hypervolume_figure_ends_at_the_hypervolume_of_the_front():
    settings = view()
    line = hypervolume_figure(settings).data[0]
    assert line.y[-1] == pytest.approx(build_front(settings.records, CRITERIA).hypervolume)
    assert (line.x[0], line.x[-1]) == (1, 19)


def test_importance_figure_has_the_most_important_key_on_top():
    importances = {
        "forget_true_mass": {"beliefs": 0.1, "retain.weight": 0.9},
        "utility": {"beliefs": 0.5, "retain.weight": 0.5},
    }
    found = traces(importance_figure(view(importances=importances)))
    assert found["forget_true_mass"].y == ("beliefs", "retain.weight")
    assert found["utility"].x == (0.5, 0.5)


def test_parallel_figure_paints_the_better_trials_dark_in_either_direction():
    turned = sweep(objectives=dict(reversed(sweep().model_dump()["objectives"].items())))
    assert not parallel_figure(view()).data[0].line.reversescale
    assert parallel_figure(view(sweep=turned)).data[0].line.reversescale


def test_squeeze_figure_has_a_column_for_each_kind_of_beliefs():
    settings = view()
    figure = squeeze_figure(settings, squeeze_groups(settings))
    assert [note.text for note in figure.layout.annotations] == [
        "plain (8 trials)",
        "BS-T (6 trials)",
        "BS-S (5 trials)",
    ]
    shown = [trace.name for trace in figure.data if trace.showlegend]
    assert shown == ["canonical (median)", "rephrased (median)"]
