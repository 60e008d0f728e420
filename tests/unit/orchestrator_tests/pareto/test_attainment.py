import math

import numpy as np
import pytest

from orchestrator.pareto.dominance import attainment

# Three runs of two points each; lower is better.
RUNS = [[(0, 2), (2, 0)], [(1, 1), (3, 0)], [(0, 3), (2, 2)]]


def corners(runs):
    found = attainment(runs)
    return {name: getattr(found, name).tolist() for name in ("best", "median", "worst")}


def test_attainment_of_three_runs_by_hand():
    assert corners(RUNS) == {
        "best": [[0, 2], [1, 1], [2, 0]],
        "median": [[0, 3], [1, 2], [2, 1], [3, 0]],
        "worst": [[1, 3], [2, 2]],
    }


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_attainment_agrees_with_counting_runs(count):
    draw = np.random.default_rng(count)
    runs = [draw.integers(0, 8, size=(draw.integers(1, 6), 2)).astype(float) for _ in range(count)]
    found = attainment(runs)
    for place in np.ndindex(9, 9):
        attained_by = sum(any(np.all(point <= place) for point in run) for run in runs)
        for surface, least in ((found.best, 1), (found.median, math.ceil(count / 2)), (found.worst, count)):
            assert any(np.all(corner <= place) for corner in surface) == (attained_by >= least)


def test_attainment_does_not_depend_on_the_order_of_runs_or_points():
    assert corners([run[::-1] for run in RUNS[::-1]]) == corners(RUNS)


def test_attainment_of_one_run_is_its_front():
    front = [[0, 2], [1, 1]]
    assert corners([[(0, 2), (1, 1), (1, 2)]]) == {"best": front, "median": front, "worst": front}


@pytest.mark.parametrize("nothing", [[], [(math.nan, 0)], [(-math.inf, 0)]])
def test_attainment_counts_a_run_without_points_as_one_that_attains_nothing(nothing):
    assert corners([nothing, [(1, 1)], [(0, 2)]]) == {
        "best": [[0, 2], [1, 1]],
        "median": [[1, 2]],
        "worst": [],
    }


def test_attainment_of_nothing_has_no_corners():
    assert corners([]) == corners([[], []]) == {"best": [], "median": [], "worst": []}


def test_attainment_refuses_more_than_two_objectives():
    with pytest.raises(ValueError, match="two objectives"):
        attainment([[(0, 1, 2)]])
