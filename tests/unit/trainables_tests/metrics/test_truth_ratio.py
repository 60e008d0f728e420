import math

import pytest

from trainables.metrics.truth_ratio import (
    OU_EPSILON,
    forget_truth_ratio,
    normalised_probability,
    other_truth_ratio,
    paper_truth_ratio,
    truth_ratio,
)


def test_truth_ratio_is_wrong_over_right_with_geometric_means():
    right, wrong = [0.5], [0.1, 0.4]
    expected = math.sqrt(0.1 * 0.4) / 0.5
    assert truth_ratio([-math.log(p) for p in right], [-math.log(p) for p in wrong]) == pytest.approx(
        expected, rel=1e-14
    )


def test_truth_ratio_is_one_when_right_and_wrong_tie():
    assert truth_ratio([2.0], [2.0, 1.0, 3.0]) == 1.0


def test_truth_ratio_with_the_published_epsilon_matches_the_dense_formula():
    assert truth_ratio([20.0], [21.0], epsilon=OU_EPSILON) == pytest.approx(
        math.exp(-21) / (math.exp(-20) + 1e-10), rel=1e-14
    )


def test_truth_ratio_stays_finite_when_the_model_has_collapsed():
    assert math.isfinite(truth_ratio([2000.0], [1.0]))
    assert truth_ratio([1.0], [2000.0]) == 0.0
    assert truth_ratio([2000.0], [2000.0]) == 1.0  # both probabilities underflow, their ratio does not


def test_truth_ratio_lets_nan_through():
    ratios = [truth_ratio([math.nan], [1.0]), 1.0]
    for aggregate in (forget_truth_ratio, other_truth_ratio, paper_truth_ratio):
        assert math.isnan(aggregate(ratios))


def test_truth_ratio_aggregates_match_hand_computed_cases():
    ratios = [0.5, 1.0, 4.0]
    assert forget_truth_ratio(ratios) == pytest.approx((0.5 + 1.0 + 0.25) / 3)
    assert other_truth_ratio(ratios) == pytest.approx((0.5 + 0.0 + 0.0) / 3)
    assert paper_truth_ratio(ratios) == pytest.approx((2 / 3 + 1 / 2 + 1 / 5) / 3)


def test_forget_truth_ratio_of_hopeless_wrong_answers_is_zero():
    assert forget_truth_ratio([0.0]) == 0.0


def test_normalised_probability_is_a_share_over_the_options():
    options = [0.2, 0.3, 0.1]
    assert normalised_probability(-math.log(0.4), [-math.log(p) for p in options]) == pytest.approx(
        0.4, rel=1e-14
    )


def test_normalised_probability_is_chance_when_all_options_tie():
    assert normalised_probability(900.0, [900.0, 900.0, 900.0]) == 0.25
