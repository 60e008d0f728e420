import math

import pytest

from trainables.metrics.aggregates import aggregate_attacks, aggregate_sets, with_reference


def items(field, *values):
    return [{"id": f"{number}", field: value} for number, value in enumerate(values)]


def test_field_that_items_lack_or_leave_empty_counts_nowhere():
    sets = {"forget": [{"id": "a", "probability": 0.25}, {"id": "b", "probability": None}, {"id": "c"}]}
    assert aggregate_sets(sets) == {"forget_probability": 0.25}


@pytest.mark.parametrize(
    ("field", "metric"),
    [
        ("nll_nats", "mia_loss"),
        ("zlib_nats", "mia_zlib"),
        ("min_k_nats", "mia_min_k"),
        ("min_k_plus_plus", "mia_min_k_plus_plus"),
        ("reference_nats", "mia_reference"),
    ],
)
def test_attack_has_the_auc_of_its_own_field(field, metric):
    sets = {"forget": items(field, 1.0, 2.0), "holdout": items(field, 2.0, 3.0)}
    assert aggregate_attacks(sets) == {metric: 0.875}


def test_attack_needs_both_sets():
    assert (
        aggregate_attacks({"forget": items("nll_nats", 1.0)})
        == aggregate_attacks({"holdout": items("nll_nats", 1.0)})
        == {}
    )


def test_privleak_compares_min_k_with_the_retrained_model_and_has_a_distance_from_zero():
    shows = {"forget": items("min_k_nats", 1.0, 1.0), "holdout": items("min_k_nats", 2.0, 2.0)}
    even = {"forget": items("min_k_nats", 2.0, 2.0), "holdout": items("min_k_nats", 2.0, 2.0)}
    assert aggregate_attacks(shows, even) == {
        "mia_min_k": 1.0,
        "privleak": pytest.approx(-100.0, rel=1e-9),
        "privleak_abs": pytest.approx(100.0, rel=1e-9),
    }
    assert aggregate_attacks(even, even)["privleak_abs"] == 0.0
    assert "privleak" not in aggregate_attacks(shows)


def test_nan_of_one_item_reaches_every_aggregate():
    sets = {"forget": items("min_k_nats", math.nan), "holdout": items("min_k_nats", 1.0)}
    even = {"forget": items("min_k_nats", 1.0), "holdout": items("min_k_nats", 1.0)}
    assert all(math.isnan(value) for value in aggregate_attacks(sets, even).values())


def test_reference_score_is_the_loss_beside_the_retrained_models_of_the_same_item():
    sets = {"forget": items("nll_nats", 1.0, 2.0), "holdout": items("nll_nats", 3.0)}
    retrained = {
        "forget": items("nll_nats", 4.0, 4.5)[::-1],
        "holdout": items("nll_nats", 3.5),
        "retain": items("nll_nats", 9.0),
    }
    scored = with_reference(sets, retrained)
    assert {name: [item["reference_nats"] for item in members] for name, members in scored.items()} == {
        "forget": [-3.0, -2.5],
        "holdout": [-0.5],
    }
    assert "reference_nats" not in sets["forget"][0]


@pytest.mark.parametrize("retrained", [None, {}, {"forget": items("nll_nats", 1.0)}])
def test_no_reference_score_without_a_retrained_model_measured_on_both_sets(retrained):
    sets = {"forget": items("nll_nats", 1.0), "holdout": items("nll_nats", 3.0)}
    assert with_reference(sets, retrained) == sets
