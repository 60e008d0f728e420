import math

import pytest

from tests.benchmarks.search_bench import History, hours_to, quantile, reached_at, table

RISING = History("random", 0, (1.0, 2.0, 4.0), (0.3, 0.6, 0.5), 0, 0.0)


def test_worker_time_counts_until_the_goal_is_first_reached():
    assert hours_to(RISING, 0.5) == 2.0


def test_worker_time_is_infinite_where_the_goal_was_never_reached():
    assert hours_to(RISING, 0.7) == math.inf


def test_what_was_reached_is_the_largest_so_far():
    assert [reached_at(RISING, hours) for hours in (0.5, 1.0, 3.0, 9.0)] == [0.0, 0.3, 0.6, 0.6]


def test_quantiles_make_nothing_up_between_finite_and_infinite():
    values = [1.0, 2.0, 3.0, math.inf]
    assert [quantile(values, share) for share in (0.25, 0.5, 0.75, 1.0)] == [1.0, 2.0, 3.0, math.inf]


def test_table_compares_with_random_search():
    fast = [History("TPE", seed, (hours,), (0.6,), 0, 0.0) for seed, hours in enumerate((0.4, 0.5, 0.6))]
    slow, quick = table([RISING, *fast], 0.55)
    assert (slow["contender"], slow["ratio"], slow["reached"]) == ("random", 1.0, 1)
    assert (quick["worker_hours"], quick["ratio"]) == ([0.4, 0.5, 0.6], pytest.approx(0.25))
