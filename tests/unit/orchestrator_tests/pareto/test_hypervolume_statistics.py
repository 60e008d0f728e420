import numpy as np
import pytest

from orchestrator.pareto.front import build_front
from orchestrator.pareto.hypervolume_statistics import bootstrap_interval, hypervolume_at, hypervolume_curve
from orchestrator.pareto.objectives import Criteria, Objective
from tests.support.sweeps.random_trials import CRITERIA, measured, random_trials, record

UNIT = Criteria((Objective("mass", "minimize", 1.0), Objective("utility", "maximize", 0.0)))


def at(number, point, **more):
    return record(number, measured(point, point), **{"spent_s": 10.0, "finished_at": float(number), **more})


def test_curve_counts_worker_time_of_all_ended_trials_in_the_order_of_their_ends():
    trials = [
        at(0, (0.5, 0.5), finished_at=30.0),
        at(1, (0.8, 0.9), finished_at=10.0, spent_s=25.0),
        record(2, status="failed", finished_at=20.0, spent_s=5.0),
        at(3, (0.0, 1.0), status="running", finished_at=None),
    ]
    curve = hypervolume_curve(trials, UNIT, workers=2)
    assert curve == [
        (50.0, pytest.approx(0.18)),
        (60.0, pytest.approx(0.18)),
        (80.0, pytest.approx(0.18 + 0.3 * 0.5)),
    ]


@pytest.mark.parametrize(
    ("worker_s", "reached"), [(0.0, 0.0), (49.9, 0.0), (50.0, 0.1), (70.0, 0.1), (80.0, 0.3), (1e9, 0.3)]
)
def test_hypervolume_at_a_time_is_that_of_the_last_trial_that_had_ended(worker_s, reached):
    assert hypervolume_at([(50.0, 0.1), (80.0, 0.3)], worker_s) == reached


def test_bootstrap_of_two_trials_goes_from_the_worse_one_alone_to_both():
    # Each alone is drawn in a quarter of the resamples.
    found = bootstrap_interval([at(0, (0.5, 0.5)), at(1, (0.8, 0.9))], UNIT)
    assert (found.low, found.high) == (pytest.approx(0.18), pytest.approx(0.18 + 0.3 * 0.5))


@pytest.mark.parametrize("name", CRITERIA)
def test_bootstrap_agrees_with_building_the_front_of_every_resample(name):
    trials, criteria, resamples = random_trials(3), CRITERIA[name], 40
    draw, volumes = np.random.default_rng(0), []
    for _ in range(resamples):
        drawn = [trials[place] for place in draw.integers(0, len(trials), len(trials))]
        volumes.append(build_front(drawn, criteria).hypervolume)
    found = bootstrap_interval(trials, criteria, resamples)
    assert [found.low, found.high] == pytest.approx(np.percentile(volumes, [2.5, 97.5]))


def test_bootstrap_draws_failed_trials_too():
    found = bootstrap_interval([at(0, (0.5, 0.5)), record(1, status="failed")], UNIT)
    assert (found.low, found.high) == (0.0, 0.25)


def test_bootstrap_of_fewer_than_two_ended_trials_is_none():
    assert bootstrap_interval([at(0, (0.5, 0.5)), at(1, (0.8, 0.9), status="running")], UNIT) is None


def test_bootstrap_of_failed_trials_is_zero():
    found = bootstrap_interval([record(number, status="failed") for number in range(3)], UNIT)
    assert (found.low, found.high) == (0.0, 0.0)
