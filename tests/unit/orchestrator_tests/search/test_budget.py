from dataclasses import replace
from random import Random

import pytest

from orchestrator.search.budget import Stagnation, StopCriterion, wall_s_of_earlier_starts
from orchestrator.search.sweep_state import SweepState
from search_spaces.settings.sweep_settings import BudgetSettings
from tests.support.sweeps.random_trials import CRITERIA, measured, record

HOUR = 3600.0


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now=1e9):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def stop_criterion(tmp_path, clock):
    """An ending under these budgets, of a sweep with these trials."""

    def make(records=(), earlier_wall_s=0.0, workers=2, **budget):
        sweep_state = SweepState(CRITERIA["every rung"], workers, records)
        return StopCriterion(BudgetSettings(**budget), sweep_state, tmp_path / "stop", earlier_wall_s, clock)

    return make


def ended(number, mass=3, **more):
    return record(number, measured((mass, 3), (mass, 3)), finished_at=float(number), **more)


def failed(number):
    return record(number, status="failed", finished_at=float(number))


def running(number, started_at=None, **more):
    return record(number, status="running", started_at=started_at, **more)


def test_sweep_without_budgets_never_ends_by_itself(stop_criterion, clock):
    made = stop_criterion([replace(failed(number), spent_s=1e9) for number in range(50)])
    clock.now += 1e9
    assert made.reason() is None
    assert made.out_of_time(running(0, started_at=0.0)) is None


def test_wall_time_is_counted_over_all_starts(stop_criterion, clock):
    made = stop_criterion(wall_time_s=100.0, earlier_wall_s=60.0)
    clock.now += 39
    assert (made.wall_s, made.reason()) == (99.0, None)
    clock.now += 1
    assert made.reason() == "budget.wall_time_s = 100 is used up"


def test_worker_hours_count_every_worker_and_failed_and_repeated_work(stop_criterion):
    spent = [ended(0, spent_s=HOUR), replace(failed(1), spent_s=HOUR), running(2, spent_s=HOUR)]
    assert stop_criterion(spent, workers=2, worker_hours=6.1).reason() is None
    assert stop_criterion(spent, workers=2, worker_hours=6.0).reason() == "budget.worker_hours = 6 is used up"


def test_worker_hours_count_attempts_that_run_now(stop_criterion, clock):
    made = stop_criterion([ended(0, spent_s=HOUR)], workers=2, worker_hours=6.0)
    for number in (1, 2):
        made.sweep_state.update(running(number, started_at=clock.now))
    clock.now += HOUR - 1
    assert made.reason() is None
    clock.now += 1
    assert made.reason() == "budget.worker_hours = 6 is used up"


def test_worker_hours_do_not_count_the_time_since_a_driver_died(stop_criterion, clock):
    # The study forgets when a trial was handed out once its driver is known to be dead.
    assert stop_criterion([running(0, started_at=None, spent_s=10.0)], worker_hours=1.0).reason() is None


def test_failures_are_counted_and_nothing_else(stop_criterion):
    made = stop_criterion([ended(0), failed(1), running(2)], failures=2)
    assert made.reason() is None
    made.sweep_state.update(replace(running(2), status="failed"))
    assert made.reason() == "budget.failures = 2 is used up"


def test_stagnation_counts_trials_in_a_row_without_growth(stop_criterion):
    made = stop_criterion([ended(0, mass=3)], stagnant_trials=2)
    made.sweep_state.update(ended(1, mass=4))
    assert made.reason() is None
    made.sweep_state.update(ended(2, mass=2))
    made.sweep_state.update(ended(3, mass=5))
    assert made.reason() is None
    made.sweep_state.update(failed(4))
    assert made.reason() is None, "a failed trial has no result that could grow"
    made.sweep_state.update(ended(5, mass=2))
    assert made.reason() == "budget.stagnant_trials = 2 is used up"


def test_trial_is_out_of_time_by_its_own_attempt(stop_criterion, clock):
    made = stop_criterion(trial_time_s=30.0)
    begun, waiting = running(0, started_at=clock.now), running(1, started_at=None)
    clock.now += 29
    assert made.out_of_time(begun) is None
    clock.now += 1
    assert made.out_of_time(begun) == "budget.trial_time_s = 30 is used up"
    assert made.out_of_time(waiting) is None
    assert made.reason() is None


def test_wish_to_stop_is_a_file(stop_criterion, tmp_path):
    made = stop_criterion()
    assert made.reason() is None
    (tmp_path / "stop").touch()
    assert made.reason() == "asked to stop by `lethe stop`"


def test_reason_stays_once_there_is_one(stop_criterion, clock, tmp_path):
    made = stop_criterion(wall_time_s=10.0, failures=1)
    (tmp_path / "stop").touch()
    first = made.reason()
    (tmp_path / "stop").unlink()
    made.sweep_state.update(failed(0))
    clock.now += 100
    assert made.reason() == first == "asked to stop by `lethe stop`"


def test_first_budget_in_the_order_of_the_settings_is_named(stop_criterion, clock):
    made = stop_criterion([failed(0)], wall_time_s=10.0, failures=1)
    clock.now += 10
    assert made.reason() == "budget.wall_time_s = 10 is used up"


def stagnant(hypervolumes, growth_frac):
    """The slow reference: trials since the last one that grew beyond the largest one that grew before."""
    best, since = 0.0, 0
    for volume in hypervolumes:
        grew = volume > best * (1 + growth_frac)
        best, since = (volume, 0) if grew else (best, since + 1)
    return since


@pytest.mark.parametrize("growth_frac", [0.0, 0.01, 0.3])
def test_stagnation_that_is_followed_equals_that_of_the_whole_history(growth_frac):
    draw = Random(0)
    for _ in range(20):
        history, followed = [], Stagnation(growth_frac)
        for _ in range(30):
            history += [
                draw.choice((0.0, 0.2, 0.4, 0.402, 0.41, draw.random())) for _ in range(draw.randint(0, 3))
            ]
            expected = stagnant(history, growth_frac)
            assert (
                followed.trials(history)
                == followed.trials(history)
                == expected
                == Stagnation(growth_frac).trials(history)
            )


def test_slow_growth_is_growth_once_it_adds_up():
    steps = [1.0, 1.04, 1.08, 1.12, 1.16]
    assert [Stagnation(0.1).trials(steps[:count]) for count in range(1, 6)] == [0, 1, 2, 0, 1]


def test_sweep_without_any_hypervolume_is_stagnant_from_its_first_trial():
    assert Stagnation(0.001).trials([0.0, 0.0, 0.0]) == 3
    assert Stagnation(0.001).trials([]) == 0


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], 0.0),
        ([(10.0, 15.0)], 5.0),
        ([(10.0, 15.0), (20.0, 22.0)], 7.0),
        ([(10.0, 15.0), (12.0, 18.0)], 8.0),
        ([(10.0, 20.0), (12.0, 15.0), (14.0, 18.0)], 10.0),
        ([(14.0, 18.0), (10.0, 20.0), (19.0, 25.0)], 15.0),
        ([(10.0, 15.0), (15.0, 16.0)], 6.0),
    ],
)
def test_busy_time_counts_what_overlaps_once(spans, expected):
    records = [record(number, started_at=start, finished_at=end) for number, (start, end) in enumerate(spans)]
    assert wall_s_of_earlier_starts(records) == expected


def test_busy_time_of_trials_without_both_times_is_nought():
    assert (
        wall_s_of_earlier_starts(
            [running(0, started_at=10.0), record(1, status="failed", finished_at=20.0), record(2)]
        )
        == 0.0
    )


def test_busy_time_agrees_with_counting_seconds():
    draw = Random(0)
    spans = [(start, start + draw.randint(0, 9)) for start in (draw.randint(1, 60) for _ in range(15))]
    records = [
        record(number, started_at=float(a), finished_at=float(b)) for number, (a, b) in enumerate(spans)
    ]
    assert wall_s_of_earlier_starts(records) == sum(
        any(a <= second < b for a, b in spans) for second in range(80)
    )
