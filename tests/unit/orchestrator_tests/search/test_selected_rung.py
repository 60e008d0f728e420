import math

import pytest

from orchestrator.pareto.objectives import Criteria, Limit, Objective
from orchestrator.search.selected_rung import sampler_values, selected_rung, violations

OBJECTIVES = (Objective("mass", "minimize", 1.0), Objective("utility", "maximize", 0.0))
CRITERIA = Criteria(OBJECTIVES)
LIMITED = Criteria(OBJECTIVES, (Limit("utility", 0.5, "at_least"),))


def rungs(*points):
    return [{"validation/mass": mass, "validation/utility": utility} for mass, utility in points]


@pytest.mark.parametrize(
    ("points", "criteria", "selected"),
    [
        # Own hypervolumes against (1, 0): (1 - mass) * utility.
        ([(0.8, 1.0), (0.5, 0.8), (0.1, 0.1)], CRITERIA, 2),
        ([(0.5, 0.4), (0.6, 0.5), (0.9, 0.1)], CRITERIA, 1),
        ([(0.75, 1.0), (0.0, 0.25), (0.9, 0.1)], CRITERIA, 1),  # 0.25 twice: the earliest
        ([(1.0, 1.0), (0.5, 0.0), (1.2, 0.5)], CRITERIA, 3),  # all 0: the last
        ([(0.8, 0.6), (0.0, 0.4)], LIMITED, 1),  # the feasible one, though the other is larger
        ([(0.8, 0.3), (0.0, 0.4)], LIMITED, 2),  # none is feasible
        ([(0.5, 0.8), (0.1, 0.1)], Criteria(OBJECTIVES, every_rung=False), 2),
        ([(0.5, 0.8), (0.1, math.inf)], CRITERIA, 1),
        ([], CRITERIA, None),
    ],
)
def test_selected_rung_is_the_best_by_its_own_hypervolume(points, criteria, selected):
    assert selected_rung(rungs(*points), criteria) == selected


def test_sampler_values_are_clipped_and_scaled_in_the_metrics_own_direction():
    criteria = Criteria(
        (
            Objective("mass", "minimize", 1.0, "log", (1e-3, 1.0)),
            Objective("utility", "maximize", 0.0, "none", (0.0, 0.9)),
        )
    )
    assert sampler_values(rungs((0.0, 1.0))[0], criteria) == [math.log(1e-3), 0.9]
    assert sampler_values(rungs((0.5, 0.7))[0], criteria) == [math.log(0.5), 0.7]


def test_violations_are_positive_outside_and_infinite_without_a_value():
    limits = (
        Limit("utility", 0.5, "at_least"),
        Limit("mass", 0.9, "at_most"),
        Limit("coherence", 0.1, "at_least"),
    )
    found = violations(rungs((0.5, 0.25))[0], Criteria(OBJECTIVES, limits))
    assert found == {
        "utility at_least 0.5": 0.25,
        "mass at_most 0.9": -0.4,
        "coherence at_least 0.1": math.inf,
    }
