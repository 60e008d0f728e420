import math

import pytest

from orchestrator.pareto.front import build_front
from orchestrator.pareto.objectives import Criteria, Limit, Objective
from orchestrator.pareto.seed_statistics import confirmed_front, estimate
from orchestrator.storage.followup_records import Confirmation
from orchestrator.storage.trial_records import TrialRecord, trial_id

CRITERIA = Criteria((Objective("mass", "minimize", 1.0), Objective("utility", "maximize", 0.0)))


def measured(mass, utility, **more):
    found = {
        f"{part}/{name}": value
        for part in ("validation", "test")
        for name, value in (("mass", mass), ("utility", utility))
    }
    return {**found, **more}


def searched(*points, criteria=CRITERIA):
    rungs = [measured(*point) for point in points]
    records = [
        TrialRecord(trial_id(number), number, "finished", {}, metrics, [metrics])
        for number, metrics in enumerate(rungs)
    ]
    return build_front(records, criteria)


def repeated(number, seed, *point, reason=None, **more):
    return Confirmation(
        trial_id(number), 1, seed, trial_id(number), measured(*point, **more) if point else {}, reason
    )


FRONT = searched((0.2, 0.5), (0.6, 0.9))
FOUR = [
    repeated(0, 1, 0.3, 0.5),
    repeated(1, 1, 0.6, 0.8),
    repeated(0, 2, 0.4, 0.5),
    repeated(1, 2, 0.6, 1.0),
]


def test_estimate_has_the_sample_deviation_and_the_interval_of_students_table():
    found = estimate([1, 2, 3, 4, 5])
    assert (found.mean, found.spread, found.count) == (3.0, pytest.approx(math.sqrt(2.5)), 5)
    assert found.half_width == pytest.approx(2.776 * math.sqrt(2.5 / 5), rel=1e-3)


def test_estimate_of_two_values_is_wide():
    assert estimate([0.4, 0.6]).half_width == pytest.approx(12.706 * 0.1, rel=1e-3)


def test_estimate_of_one_value_has_no_interval():
    found = estimate([0.4])
    assert (found.mean, found.spread, found.half_width) == (0.4, None, None)


def test_interval_holds_the_true_mean_in_95_of_100_experiments():
    import numpy as np

    draws = np.random.default_rng(0).normal(2.0, 3.0, size=(2000, 4))
    held = [abs(found.mean - 2.0) <= found.half_width for found in map(estimate, draws.tolist())]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def test_members_are_estimated_each_over_its_own_seeds():
    found = confirmed_front(FRONT, CRITERIA, [*FOUR, repeated(0, 3, 0.5, 0.2)])
    first, second = found.members
    assert first.estimates["mass"].mean == pytest.approx(0.4) and first.estimates["mass"].count == 3
    assert second.estimates["utility"].mean == pytest.approx(0.9) and second.estimates["utility"].count == 2
    assert found.is_whole


def test_hypervolume_of_a_seed_is_that_of_all_members_under_it():
    found = confirmed_front(FRONT, CRITERIA, [*FOUR, repeated(0, 3, 0.5, 0.2)])
    # Two overlapping boxes up to (1, 0) each; the third seed lacks a member.
    assert found.hypervolumes == {
        1: pytest.approx(0.7 * 0.5 + 0.4 * 0.3),
        2: pytest.approx(0.6 * 0.5 + 0.4 * 0.5),
    }
    assert found.hypervolume.mean == pytest.approx((0.47 + 0.5) / 2)
    assert found.searched_hypervolume == pytest.approx(FRONT.hypervolume)


def test_attainment_is_over_the_seeds_that_all_members_have():
    found = confirmed_front(FRONT, CRITERIA, FOUR)
    assert found.attainment.worst.tolist() == [[0.4, -0.5], [0.6, -0.8]]
    assert found.attainment.best.tolist() == [[0.3, -0.5], [0.6, -1.0]]
    assert confirmed_front(FRONT, CRITERIA, FOUR[:3]).attainment is None


def test_failed_repetition_ends_its_seed_and_adds_nothing():
    found = confirmed_front(FRONT, CRITERIA, [*FOUR[:3], repeated(1, 2, reason="out of memory")])
    assert found.hypervolumes[2] == pytest.approx(0.6 * 0.5)
    assert found.members[1].failures == ("out of memory",) and found.members[1].estimates["mass"].count == 1


def test_member_that_only_failed_has_no_estimate():
    found = confirmed_front(FRONT, CRITERIA, [repeated(0, 1, reason="out of memory")])
    assert found.members[0].estimates == {} and found.hypervolumes == {1: 0.0}


def test_members_without_repetitions_are_left_out_on_both_sides_of_the_comparison():
    found = confirmed_front(FRONT, CRITERIA, [repeated(1, 1, 0.6, 0.9)])
    assert [confirmed.member.name for confirmed in found.members] == ["t0001"]
    assert found.searched_hypervolume == pytest.approx(0.4 * 0.9) == found.hypervolume.mean
    assert not found.is_whole and found.front_size == 2


def test_repetitions_of_what_left_the_front_are_not_looked_at():
    assert confirmed_front(FRONT, CRITERIA, [repeated(7, 1, 0.0, 1.0)]) is None
    assert set(confirmed_front(FRONT, CRITERIA, [*FOUR, repeated(7, 1, 0.0, 1.0)]).hypervolumes) == {1, 2}


def test_broken_limits_are_counted():
    criteria = Criteria(CRITERIA.objectives, (Limit("utility", 0.45, "at_least"),))
    found = confirmed_front(FRONT, criteria, [repeated(0, 1, 0.3, 0.5), repeated(0, 2, 0.2, 0.4)])
    assert found.members[0].infeasible == 1


def test_three_objectives_have_no_attainment_surface():
    criteria = Criteria((*CRITERIA.objectives, Objective("speed", "maximize", 0.0)))
    metrics = measured(0.2, 0.5, **{"test/speed": 1.0, "validation/speed": 1.0})
    front = build_front([TrialRecord("t0000", 0, "finished", {}, metrics, [metrics])], criteria)
    found = confirmed_front(
        front, criteria, [Confirmation("t0000", 1, seed, "t0000", metrics) for seed in (1, 2)]
    )
    assert found.attainment is None and found.hypervolume.mean == pytest.approx(0.8 * 0.5)
