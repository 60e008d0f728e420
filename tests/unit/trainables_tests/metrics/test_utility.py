import math

import pytest

from trainables.metrics.aggregates import harmonic_mean, mem, model_utility


def test_harmonic_mean_matches_the_closed_form():
    assert harmonic_mean([0.5, 1.0]) == pytest.approx(2 / 3)
    assert harmonic_mean([0.3]) == pytest.approx(0.3)


def test_harmonic_mean_is_zero_when_any_value_is():
    assert harmonic_mean([0.0, 0.9]) == 0.0
    assert harmonic_mean([-1e-9, 0.9]) == 0.0


def test_harmonic_mean_lets_nan_through_also_beside_a_zero():
    assert math.isnan(harmonic_mean([0.0, math.nan]))


def parts(*sets):
    return {f"{name}_{part}": 0.5 for name in sets for part in ("probability", "rouge_l", "truth_ratio")}


def test_model_utility_takes_nine_parts():
    metrics = parts("retain", "real_authors", "world_facts") | {"retain_probability": 1.0}
    assert model_utility(metrics) == pytest.approx(9 / (8 / 0.5 + 1))


def test_model_utility_takes_the_parts_that_exist():
    assert model_utility(parts("retain") | {"forget_probability": 0.01}) == pytest.approx(0.5)
    assert model_utility({"retain_probability": 0.5, "retain_rouge_l": 1.0}) == pytest.approx(2 / 3)


def test_model_utility_is_left_out_without_a_retain_set():
    assert model_utility(parts("forget", "world_facts")) is None


def test_mem_is_the_harmonic_mean_of_what_is_forgotten():
    expected = 4 / (1 / 0.9 + 1 / 0.8 + 1 / 0.7 + 1 / 0.6)
    assert mem(0.1, 0.2, 0.3, 0.4) == pytest.approx(expected)


def test_mem_uses_the_parts_that_exist():
    assert mem(0.1, 0.2, None, None) == pytest.approx(2 / (1 / 0.9 + 1 / 0.8))


def test_mem_is_zero_when_the_set_is_wholly_extractable():
    assert mem(1.0, 0.2, 0.3, 0.4) == 0.0
