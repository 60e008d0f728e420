import math

import pytest

from orchestrator.pareto.objectives import (
    Criteria,
    Limit,
    Objective,
    criteria_of,
    limits_of,
    minimised_reference,
    objective_values,
    to_minimised,
    why_unusable,
)
from search_spaces.settings.sweep_settings import BoundSettings
from tests.support.sweeps.sweep_on_disk import small_sweep

OBJECTIVES = (Objective("mass", "minimize", 1.0), Objective("utility", "maximize", 0.25))
SCALES = [
    Objective("mass", direction, 0.5, transform, clip)
    for direction in ("minimize", "maximize")
    for transform, clip in (("none", None), ("none", (0.1, 0.9)), ("log", (1e-4, 1.0)))
]


def test_points_minimise_in_every_coordinate():
    assert to_minimised(OBJECTIVES, {"utility": 0.75, "mass": 0.5}) == (0.5, -0.75)
    assert minimised_reference(OBJECTIVES) == (1.0, -0.25)


def test_log_scale_compares_ratios():
    mass, inverse = (
        Objective("mass", direction, 1.0, "log", (1e-6, 1.0)) for direction in ("minimize", "maximize")
    )
    assert mass.to_minimised(1e-2) - mass.to_minimised(1e-4) == pytest.approx(math.log(100))
    assert inverse.to_minimised(1e-2) == pytest.approx(math.log(100))
    assert minimised_reference([mass]) == (0.0,)


def test_clipped_values_are_moved_to_the_nearer_bound_before_the_logarithm():
    mass = Objective("mass", "minimize", 1.0, "log", (1e-3, 0.5))
    assert mass.to_minimised(0.0) == math.log(1e-3)
    assert mass.to_minimised(0.9) == math.log(0.5)
    assert Objective("utility", "maximize", 0.0, clip=(0.2, 0.8)).to_minimised(0.95) == -0.8


@pytest.mark.parametrize("objective", SCALES, ids=str)
def test_from_minimised_undoes_to_minimised_within_the_clip(objective):
    assert objective.from_minimised(objective.to_minimised(0.3)) == pytest.approx(0.3)


@pytest.mark.parametrize("objective", SCALES, ids=str)
def test_every_scale_keeps_the_order_of_values(objective):
    values = [0.15, 0.3, 0.6, 0.85]
    points = [objective.to_minimised(value) for value in values]
    assert points == sorted(points, reverse=objective.direction == "maximize")


def test_clipped_values_come_back_as_their_bound():
    mass = Objective("mass", "minimize", 1.0, "log", (1e-3, 0.5))
    assert mass.from_minimised(mass.to_minimised(0.0)) == pytest.approx(1e-3)


def test_value_that_is_not_a_number_stays_one_through_a_clip():
    assert math.isnan(Objective("mass", "minimize", 1.0, clip=(0.0, 1.0)).to_minimised(math.nan))


def test_objective_values_come_from_the_part_asked_for():
    metrics = {
        "validation/mass": 0.1,
        "validation/utility": 0.2,
        "test/mass": 0.3,
        "test/utility": 0.4,
        "test/other": 0.5,
    }
    assert objective_values(metrics, OBJECTIVES, "validation") == {"mass": 0.1, "utility": 0.2}
    assert objective_values(metrics, OBJECTIVES, "test") == {"mass": 0.3, "utility": 0.4}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_objective_values_are_none_when_one_is_unusable(value):
    metrics = {"test/mass": 0.3} | ({} if value is None else {"test/utility": value})
    assert objective_values(metrics, OBJECTIVES, "test") is None
    assert Criteria(OBJECTIVES).point(metrics, "test") is None


def test_point_of_a_measurement_is_that_of_the_validation_part_by_default():
    criteria = Criteria(OBJECTIVES)
    metrics = {"validation/mass": 0.1, "validation/utility": 0.2, "test/mass": 0.3, "test/utility": 0.4}
    assert criteria.point(metrics) == (0.1, -0.2)
    assert criteria.point(metrics, "test") == (0.3, -0.4)
    assert criteria.reference == (1.0, -0.25)


@pytest.mark.parametrize(
    ("kind", "value", "violation", "feasible"),
    [
        ("at_least", 0.3, 0.1, False),
        ("at_least", 0.4, 0.0, True),
        ("at_least", 0.6, -0.2, True),
        ("at_most", 0.6, 0.2, False),
        ("at_most", 0.4, 0.0, True),
        ("at_most", 0.3, -0.1, True),
        ("at_most", math.inf, math.inf, False),
        ("at_least", math.inf, -math.inf, True),
        ("at_least", math.nan, math.inf, False),
        ("at_most", math.nan, math.inf, False),
    ],
)
def test_limit_is_kept_to_up_to_its_bound(kind, value, violation, feasible):
    limit, metrics = Limit("utility", 0.4, kind), {"validation/utility": value}
    assert limit.violation(metrics) == pytest.approx(violation)
    assert Criteria(OBJECTIVES, (limit,)).feasible(metrics) is feasible


def test_limit_looks_at_the_validation_part_alone_and_a_missing_metric_is_infinitely_far_outside():
    limit = Limit("fluency", 0.4, "at_least")
    assert limit.violation({"test/fluency": 0.9}) == math.inf
    assert limit.violation({"validation/fluency": 0.9, "test/fluency": 0.1}) == -0.5
    assert limit.name == "fluency at_least 0.4"


def test_bounds_are_one_limit_for_each_side_that_is_named():
    assert limits_of("x", BoundSettings()) == []
    assert limits_of("x", BoundSettings(at_least=0.0)) == [Limit("x", 0.0, "at_least")]
    assert limits_of("x", BoundSettings(at_least=0.1, at_most=0.9)) == [
        Limit("x", 0.1, "at_least"),
        Limit("x", 0.9, "at_most"),
    ]


def test_criteria_are_objectives_their_limits_and_the_constraints_of_the_sweep():
    objectives = {
        "forget_true_mass": {
            "direction": "minimize",
            "reference": 1.0,
            "transform": "log",
            "clip": [0.001, 1.0],
        },
        "utility": {"direction": "maximize", "reference": 0.0, "at_least": 0.4},
    }
    sweep = small_sweep(
        objectives=objectives, constraints={"forget_coherence": {"at_least": 0.5, "at_most": 1.0}}
    )
    criteria = criteria_of(sweep)
    assert criteria.objectives == (
        Objective("forget_true_mass", "minimize", 1.0, "log", (0.001, 1.0)),
        Objective("utility", "maximize", 0.0),
    )
    assert [limit.name for limit in criteria.limits] == [
        "utility at_least 0.4",
        "forget_coherence at_least 0.5",
        "forget_coherence at_most 1",
    ]
    assert criteria.every_rung
    assert not criteria_of(small_sweep(search={"select": "last"})).every_rung


def test_measurement_is_feasible_only_within_all_limits():
    criteria = Criteria(OBJECTIVES, (Limit("utility", 0.4, "at_least"), Limit("mass", 0.8, "at_most")))
    assert criteria.feasible({"validation/utility": 0.5, "validation/mass": 0.5})
    assert not criteria.feasible({"validation/utility": 0.5, "validation/mass": 0.9})
    assert Criteria(OBJECTIVES).feasible({})


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({"validation/mass": 0.1, "validation/utility": 0.2}, None),
        ({"validation/mass": 0.1, "validation/utility": 0.2, "test/odds": math.inf}, None),
        ({"validation/mass": 0.1, "test/utility": 0.2}, "no value for the objective utility"),
        ({}, "no value for the objectives mass, utility"),
        (
            {"validation/mass": 0.1, "validation/utility": 0.2, "test/odds": math.nan},
            "not a finite number: test/odds = nan",
        ),
        (
            {"validation/mass": math.inf, "validation/utility": 0.2},
            "not a finite number: validation/mass = inf",
        ),
    ],
)
def test_result_is_unusable_for_a_nan_anywhere_and_for_infinity_in_an_objective(metrics, reason):
    assert why_unusable(metrics, OBJECTIVES) == reason
