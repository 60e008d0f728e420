from dataclasses import replace

import pytest

from orchestrator.pareto.front import build_front
from orchestrator.pareto.objectives import criteria_of, objectives_of
from orchestrator.report.figure_data import (
    CANONICAL,
    REPHRASED,
    axis_title,
    baseline_points,
    group_name,
    method_and_beliefs,
    points_of,
    progress_title,
    squeeze_groups,
    staircase,
    top_importances,
    yardstick,
)
from orchestrator.storage.trial_records import TrialRecord
from tests.support.sweeps.finished_sweep import records, sweep, validation_only, view
from tests.support.sweeps.sweep_on_disk import measured


def corner(number, *points, status="finished"):
    """A trial with a rung for each (mass, utility)."""
    rungs = [measured(*point) for point in points]
    return TrialRecord(f"t{number:04d}", number, status, {}, rungs[-1], rungs)


def squeezed(number, canonical, rephrased, beliefs="none"):
    rungs = [{CANONICAL: a, REPHRASED: b} for a, b in zip(canonical, rephrased, strict=True)]
    return TrialRecord(f"t{number:04d}", number, "finished", {"beliefs": beliefs}, rungs[-1], rungs)


def area(x, y, base):
    return sum(abs(x2 - x1) * abs(y1 - base) for x1, x2, y1 in zip(x, x[1:], y, strict=False))


def test_staircase_encloses_the_hypervolume():
    settings = view()
    front = build_front(settings.records, criteria_of(settings.sweep))
    x, y = staircase(front)
    assert area(x, y, base=0.0) == pytest.approx(front.hypervolume)
    assert (x[0], y[0]) == (front.members[0].objectives["forget_true_mass"], 0.0)
    assert x[-1] == 1.0


def test_staircase_turns_with_the_directions():
    turned = {
        "utility": {"direction": "maximize", "reference": 0.1},
        "forget_true_mass": {"direction": "minimize", "reference": 0.9},
    }
    front = build_front([corner(0, (0.2, 0.5)), corner(1, (0.6, 0.8))], criteria_of(sweep(objectives=turned)))
    assert staircase(front) == ([0.8, 0.8, 0.5, 0.5, 0.1], [0.9, 0.6, 0.6, 0.2, 0.2])


def test_staircase_is_empty_when_nothing_beats_the_reference_point():
    assert staircase(build_front([corner(0, (1.0, 0.5))], criteria_of(sweep()))) == ([], [])


def test_staircase_is_in_the_metrics_own_units_on_a_log_scale_too():
    objectives = {
        "forget_true_mass": {
            "direction": "minimize",
            "reference": 1.0,
            "transform": "log",
            "clip": [0.01, 1.0],
        },
        "utility": {"direction": "maximize", "reference": 0.2, "transform": "log", "clip": [0.1, 1.0]},
    }
    x, y = staircase(
        build_front(
            [corner(0, (0.05, 0.5)), corner(1, (0.001, 0.4))], criteria_of(sweep(objectives=objectives))
        )
    )
    # What was clipped is drawn at its bound, up to which it counts.
    assert x == pytest.approx([0.01, 0.01, 0.05, 0.05, 1.0])
    assert y == pytest.approx([0.2, 0.4, 0.4, 0.5, 0.5])


def test_points_are_the_ends_of_trials_and_the_members_at_their_rungs():
    settings = view()
    front, points = settings.front, points_of(settings)
    ends = {
        (record.trial_id, len(record.rungs)) for record in settings.records if record.status == "finished"
    }
    assert [(point.record.trial_id, point.rung) for point in points] == sorted(ends | front.keys)
    assert {(point.record.trial_id, point.rung) for point in points if point.on_front} == front.keys
    assert front.keys - ends, "no member at an earlier rung: nothing was tested"


def test_points_of_a_stopped_trial_are_what_was_measured_of_it_on_the_test_part():
    kept = corner(0, (0.5, 0.5), (0.4, 0.6), status="stopped")
    rest = replace(corner(1, (0.1, 0.2), (0.9, 0.1)), status="stopped")
    rest = replace(rest, rungs=[rest.rungs[0], validation_only(rest.rungs[1])])
    settings = view(records=[kept, rest, replace(corner(2, (0.1, 0.9)), status="failed")])
    points = points_of(settings)
    assert [(point.name, point.on_front) for point in points] == [("t0000", True), ("t0001@1", True)]


def test_method_and_beliefs_fall_back_on_the_trial_defaults_when_not_searched():
    fixed = sweep(trial={"forget": {"method": "wga"}, "beliefs": "token+sequence"}, space={})
    assert method_and_beliefs(fixed, corner(0, (0.1, 0.1))) == ("wga", "token+sequence")


def test_group_name_says_plain_where_no_belief_is_on():
    assert [group_name("npo", "none"), group_name("graddiff", "token+sequence")] == [
        "NPO (plain)",
        "GradDiff + BS-T + BS-S",
    ]


def test_axis_title_says_which_way_is_better():
    assert [axis_title(objective) for objective in objectives_of(sweep())] == [
        "forget_true_mass, test part (lower is better)",
        "utility, test part (higher is better)",
    ]


def test_yardstick_is_the_box_of_the_retrained_model_alone():
    values = baseline_points(view())["retrained"]
    assert yardstick(view()) == pytest.approx((1 - values["forget_true_mass"]) * values["utility"])
    assert yardstick(view(baselines={})) is None


def test_squeeze_groups_take_the_median_of_each_rung_from_the_original_on():
    trials = [
        squeezed(0, [0.4, 0.1], [0.5, 0.6]),
        squeezed(1, [0.2, 0.3], [0.7, 0.8]),
        squeezed(2, [0.3], [0.9]),
    ]
    settings = view(
        sweep=sweep(trial={"epochs": 6, "rungs": 2}),
        records=trials,
        baselines={"original": {CANONICAL: 0.5, REPHRASED: 0.45}},
    )
    (group,) = squeeze_groups(settings)
    assert group.median.progress == (0.0, 3.0, 6.0)
    # The last trial ended early: it counts where it was.
    assert group.median.canonical == pytest.approx((0.5, 0.3, 0.2))
    assert group.median.rephrased == pytest.approx((0.45, 0.7, 0.7))


def test_squeeze_groups_are_by_beliefs_plain_first_and_without_failed_trials():
    trials = [
        squeezed(0, [0.1], [0.2], "sequence"),
        squeezed(1, [0.1], [0.2]),
        replace(squeezed(2, [0.1], [0.2]), status="failed"),
    ]
    groups = squeeze_groups(view(records=trials, baselines={}))
    assert [(group.beliefs, [line.trial_id for line in group.lines]) for group in groups] == [
        ("none", ["t0001"]),
        ("sequence", ["t0000"]),
    ]


def test_squeeze_counts_rungs_when_the_schedule_is_searched():
    varied = sweep(trial={"epochs": 6, "rungs": 2}, space={"epochs": {"int": [2, 10]}})
    (group,) = squeeze_groups(view(sweep=varied, records=[squeezed(0, [0.1, 0.1], [0.2, 0.2])], baselines={}))
    assert group.median.progress == (1.0, 2.0)
    assert [progress_title(varied), progress_title(sweep()), progress_title(sweep(trial={"steps": 9}))] == [
        "rung of evaluation",
        "epoch",
        "optimizer step",
    ]


def test_top_importances_rank_a_key_by_its_largest_share():
    shares = {"forget_true_mass": {"a": 0.2, "b": 0.8}, "utility": {"a": 0.9, "c": 0.1}}
    assert top_importances(view(importances=shares)) == ["a", "b", "c"]
    assert top_importances(view(importances=shares), most=2) == ["a", "b"]


def test_synthetic_sweep_shows_the_squeezing_effect_on_plain_methods():
    plain = squeeze_groups(view(records=records(failed=(), stopped=())))[0]
    assert plain.beliefs == "none"
    assert plain.median.canonical[1] < 0.1 < 0.5 < plain.median.rephrased[1]
