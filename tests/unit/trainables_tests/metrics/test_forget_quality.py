import math
import random
from fractions import Fraction
from math import comb

import pytest

from trainables.metrics.truth_ratio import forget_quality, log10_p


def slow_exact_p(first, second):
    """P(D >= d) under the null hypothesis: every order of the pooled sample is equally likely (count lattice
    paths that stay below d)."""
    n, m = len(first), len(second)
    pooled = sorted([(value, 0) for value in first] + [(value, 1) for value in second])
    seen, distance = [0, 0], Fraction(0)
    for index, (value, which) in enumerate(pooled):
        seen[which] += 1
        if index + 1 == n + m or pooled[index + 1][0] != value:
            distance = max(distance, abs(Fraction(seen[0], n) - Fraction(seen[1], m)))
    below = [[0] * (m + 1) for _ in range(n + 1)]
    for i in range(n + 1):
        for j in range(m + 1):
            if abs(Fraction(i, n) - Fraction(j, m)) >= distance:
                continue
            below[i][j] = 1 if i == j == 0 else (below[i - 1][j] if i else 0) + (below[i][j - 1] if j else 0)
    return float(1 - Fraction(below[n][m], comb(n + m, n)))


def test_forget_quality_matches_counted_orders():
    draw = random.Random(0)
    for n, m in [(1, 1), (3, 5), (8, 8), (12, 7)]:
        first, second = [draw.gauss(0, 1) for _ in range(n)], [draw.gauss(0.7, 1) for _ in range(m)]
        assert forget_quality(first, second) == pytest.approx(slow_exact_p(first, second), rel=1e-10)


def test_forget_quality_is_one_for_equal_samples():
    assert forget_quality([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]) == 1.0


def test_forget_quality_of_separated_samples_is_two_orders_of_all():
    first, second = [float(i) for i in range(20)], [float(i) for i in range(100, 120)]
    assert forget_quality(first, second) == pytest.approx(2 / comb(40, 20), rel=1e-10)


def test_forget_quality_does_not_change_when_both_are_inverted():
    first, second = [0.2, 0.5, 0.9, 1.4], [0.4, 1.1, 2.0, 3.0, 5.0]
    assert forget_quality(first, second) == forget_quality([1 / x for x in first], [1 / x for x in second])


def test_forget_quality_lets_nan_through():
    assert math.isnan(forget_quality([0.1, math.nan], [0.2, 0.3]))
    assert math.isnan(log10_p(math.nan))


def test_log10_p_stays_finite_when_the_p_value_underflows():
    assert log10_p(1e-5) == pytest.approx(-5)
    assert log10_p(0.0) == pytest.approx(-323.3, abs=0.1)
