import math

import numpy as np
import pytest

from orchestrator.pareto.dominance import dominance_layers, non_dominated
from orchestrator.pareto.objectives import Criteria, Limit, Objective
from orchestrator.pareto.ranking import RankedPoint, ranked_point, ranks, survivors

TIES = ["hypervolume", "crowding", "epsilon_net"]
EVERY_WAY = pytest.mark.parametrize("ties", TIES)


def ranked(points, ties="crowding", violations=None):
    violations = [0.0] * len(points) if violations is None else violations
    return ranks(
        [RankedPoint(tuple(point), violation) for point, violation in zip(points, violations, strict=True)],
        ties,
    ).tolist()


@EVERY_WAY
def test_positions_are_places_and_not_the_order_of_an_argsort(ties):
    values = np.array([4.0, 3.0, 2.0, 0.0, 1.0])
    assert np.argsort(values).tolist() == [3, 4, 2, 1, 0]
    assert ranked(values[:, None], ties) == [4, 3, 2, 0, 1]
    assert ranked(np.column_stack([values, values]), ties) == [4, 3, 2, 0, 1]


@EVERY_WAY
def test_positions_put_layer_behind_layer(ties):
    outer, inner, last = [(0, 4), (4, 0)], [(1, 5), (5, 1)], [(6, 6)]
    found = ranked([*last, *inner, *outer], ties)
    assert found[0] == 4 and set(found[1:3]) <= {2, 3} and set(found[3:]) <= {0, 1}


def test_crowding_puts_both_ends_first_and_then_the_widest_gaps():
    # Gaps between the neighbours of 1, 4 and 6: 4, 5 and 6.
    assert ranked([(x, 10 - x) for x in (0, 1, 4, 6, 10)]) == [0, 4, 3, 2, 0]


def test_epsilon_net_starts_in_the_middle_and_goes_on_with_the_farthest():
    # 4 is nearest the best corner; farthest from it is 10, then 0, then 7, then 1.
    assert ranked([(x, 10 - x) for x in (0, 1, 4, 7, 10)], "epsilon_net") == [2, 4, 0, 3, 1]


def test_hypervolume_puts_first_what_the_layer_would_miss_most():
    # On scales from 0 to 1, up to (1.05, 1.05): .2 * .05, .3 * .4, .5 * .1 and .05 * .5.
    assert ranked([(0.0, 1.0), (0.2, 0.6), (0.5, 0.5), (1.0, 0.0)], "hypervolume") == [3, 0, 1, 2]


def test_hypervolume_serves_three_objectives():
    ends, middle, dominated = [(0, 1, 1), (1, 0, 1), (1, 1, 0)], (0.6, 0.6, 0.6), (1, 1, 1)
    assert ranked([*ends, middle, dominated], "hypervolume") == [1, 1, 1, 0, 4]


def test_crowding_serves_three_objectives():
    ends, middle, dominated = [(0, 1, 1), (1, 0, 1), (1, 1, 0)], (0.6, 0.6, 0.6), (1, 1, 1)
    assert ranked([*ends, middle, dominated]) == [0, 0, 0, 3, 4]


def test_epsilon_net_serves_three_objectives():
    points = [(0, 1, 1), (0.6, 0.6, 0.6), (1, 1, 1), (0.5, 0.7, 0.7)]
    assert ranked(points, "epsilon_net") == [1, 0, 3, 2]


def test_crowding_passes_over_an_objective_in_which_a_layer_is_equal():
    assert ranked([(x, 10 - x, 7) for x in (0, 1, 4, 6, 10)]) == ranked(
        [(x, 10 - x) for x in (0, 1, 4, 6, 10)]
    )


@EVERY_WAY
def test_equal_points_share_the_better_position_and_count_each(ties):
    assert ranked([(2, 2), (1, 1), (1, 1), (3, 3)], ties) == [2, 0, 0, 3]
    assert ranked([(5, 5)] * 4, ties) == [0, 0, 0, 0]


@EVERY_WAY
def test_infeasible_ones_stand_behind_all_feasible_ones_by_their_violation(ties):
    assert ranked([(0, 0), (9, 9), (0, 0), (5, 5), (0, 0)], ties, [0.5, 0.0, 0.1, 0.0, 0.5]) == [
        3,
        1,
        2,
        0,
        3,
    ]
    assert ranked([(0, 0), (9, 9)], ties, [2.0, 1.0]) == [1, 0]


@EVERY_WAY
@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_a_point_stands_before_all_that_it_dominates(ties, objectives):
    points = np.random.default_rng(objectives).integers(0, 8, (60, objectives))
    found = ranked(points, ties)
    for point, place in zip(points, found, strict=True):
        worse = np.all(point <= points, axis=1) & np.any(point < points, axis=1)
        assert all(place < other for other in np.array(found)[worse])


@EVERY_WAY
@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_positions_depend_neither_on_the_order_of_the_points_nor_on_units(ties, objectives):
    draw = np.random.default_rng(objectives)
    points = draw.integers(0, 16, (40, objectives)).astype(float)
    found, order = np.array(ranked(points, ties)), draw.permutation(40)
    assert ranked(points[order], ties) == found[order].tolist()
    # Powers of two, so that scaling rounds nothing.
    assert ranked(points * 2.0 ** np.arange(1, objectives + 1) - 32, ties) == found.tolist()


@EVERY_WAY
def test_positions_of_nothing_are_nothing(ties):
    assert ranked([], ties) == []


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_dominance_layers_are_fronts_of_what_is_left(objectives):
    points = np.random.default_rng(objectives).integers(0, 6, (50, objectives)).astype(float)
    layers, left = dominance_layers(points), np.full(50, True)
    for layer in range(layers.max() + 1):
        front = np.flatnonzero(left)[non_dominated(points[left])]
        assert np.flatnonzero(layers == layer).tolist() == front.tolist()
        left[front] = False
    assert not left.any()


def test_standing_sums_the_violations_of_all_limits():
    objectives = (Objective("mass", "minimize", 1.0), Objective("utility", "maximize", 0.0))
    criteria = Criteria(
        objectives,
        (Limit("utility", 0.75, "at_least"), Limit("mass", 0.25, "at_most"), Limit("mass", 0.0, "at_least")),
    )
    assert ranked_point({"validation/mass": 0.5, "validation/utility": 0.5}, criteria) == RankedPoint(
        (0.5, -0.5), 0.5
    )
    assert ranked_point({"validation/mass": 0.25, "validation/utility": 1.0}, criteria) == RankedPoint(
        (0.25, -1.0), 0.0
    )
    assert ranked_point({"validation/mass": math.nan, "validation/utility": 1.0}, criteria) == RankedPoint(
        None, math.inf
    )


@pytest.mark.parametrize(
    ("count", "reduction", "expected"), [(1, 3, 1), (3, 3, 1), (4, 3, 2), (12, 3, 4), (5, 2.5, 2)]
)
def test_going_on_is_the_share_rounded_up(count, reduction, expected):
    assert survivors(count, reduction) == expected
