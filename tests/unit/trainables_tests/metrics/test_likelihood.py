import math
import random

import numpy as np
import pytest

from trainables.metrics.likelihood import (
    exact_memorization,
    extraction_strength,
    extraction_strength_ou,
    mean_nll,
    probability,
    score_response,
)


def slow_strength(correct, floor):
    length = len(correct)
    for start in range(length):
        if all(correct[start:]):
            return 1 - start / length
    return 1 - (length - 1) / length if floor else 0.0


@pytest.mark.parametrize(
    ("correct", "exact", "published"),
    [
        ([True, True, True, True], 1.0, 1.0),
        ([False, True, True, True], 0.75, 0.75),
        ([True, True, False, True], 0.25, 0.25),
        ([True, True, True, False], 0.0, 0.25),
        ([False] * 4, 0.0, 0.25),
        ([True], 1.0, 1.0),
        ([False], 0.0, 1.0),
    ],
)
def test_extraction_strength_matches_hand_computed_cases(correct, exact, published):
    assert extraction_strength(correct) == exact
    assert extraction_strength_ou(correct) == pytest.approx(published, abs=1e-15)


def test_extraction_strength_matches_the_published_loop_on_random_cases():
    draw = random.Random(0)
    for _ in range(300):
        correct = [draw.random() < 0.7 for _ in range(draw.randint(1, 12))]
        assert extraction_strength(correct) == slow_strength(correct, floor=False)
        assert extraction_strength_ou(correct) == slow_strength(correct, floor=True)


def test_exact_memorization_is_the_share_of_hits():
    assert exact_memorization([True, False, True, True]) == 0.75


def test_probability_is_the_geometric_mean_of_token_probabilities():
    tokens = [0.5, 0.25, 0.125]
    nll = mean_nll(np.log(tokens))
    assert nll == pytest.approx(-sum(map(math.log, tokens)) / 3, rel=1e-15)
    assert probability(nll) == pytest.approx(math.prod(tokens) ** (1 / 3), rel=1e-14)


def test_score_response_keeps_the_end_token_in_the_probability_and_drops_it_elsewhere():
    scores = score_response(np.log([0.5, 0.5, 0.125]), [True, False, True])
    assert scores.probability == pytest.approx((0.5 * 0.5 * 0.125) ** (1 / 3))
    assert (scores.extraction_strength, scores.extraction_strength_ou, scores.exact_memorization) == (
        0.0,
        0.5,
        0.5,
    )


def test_score_response_of_one_content_token():
    scores = score_response(np.log([0.5, 0.5]), [True, False])
    assert (scores.extraction_strength, scores.extraction_strength_ou, scores.exact_memorization) == (
        1.0,
        1.0,
        1.0,
    )


def test_score_response_has_no_memorisation_when_the_answer_is_the_end_token_alone():
    scores = score_response([math.log(0.25)], [True])
    assert scores.probability == pytest.approx(0.25)
    assert scores.extraction_strength is scores.extraction_strength_ou is scores.exact_memorization is None


def test_score_response_scores_the_attacks_on_tokens_without_the_end_token():
    logp = [-1.0, -5.0, -2.0, -3.0, -4.0, -90.0]  # the end token would be the least likely
    scores = score_response(logp, [True] * 6, ([-1.0] * 6, [2.0, 2.0, 2.0, 2.0, 1.0, 1.0]))
    assert scores.min_k_nats == 4.5
    assert scores.min_k_plus_plus == pytest.approx((3.0 + 2.0) / 2)  # (-4 + 1) / 1 and (-5 + 1) / 2


def test_score_response_without_moments_has_no_standardised_score():
    scores = score_response([-1.0, -2.0], [True, True])
    assert (scores.min_k_nats, scores.min_k_plus_plus) == (1.0, None)


def test_score_response_has_no_attack_on_the_end_token_alone():
    scores = score_response([-1.0], [True], ([-1.0], [1.0]))
    assert scores.min_k_nats is scores.min_k_plus_plus is None


def test_score_response_lets_nan_through():
    assert math.isnan(score_response([math.nan, -1.0], [False, False]).probability)
