import json
import math
import random
import zlib

import numpy as np
import pytest

from tests.support.places import SHARED
from trainables.metrics.membership import auc, min_k, min_k_plus_plus, privleak, zlib_score

DATA = SHARED / "data"
FULL = DATA / "reference_logs/tofu_Llama-3.2-1B-Instruct_full"
needs_logs = pytest.mark.skipif(
    not FULL.is_dir(), reason="no published logs at ../shared/data/reference_logs"
)


def slow_auc(members, others):
    wins = [
        1.0 if member < other else 0.5 if member == other else 0.0 for member in members for other in others
    ]
    return sum(wins) / len(wins)


def slow_lowest(values, share):
    kept = sorted(values)[: max(1, math.floor(len(values) * share + 1e-9))]
    return -sum(kept) / len(kept)


@pytest.mark.parametrize(
    ("members", "others", "expected"),
    [
        ([1, 2], [3, 4], 1.0),
        ([3, 4], [1, 2], 0.0),
        ([1], [1], 0.5),
        ([2, 2, 2], [2, 2], 0.5),
        ([1, 3], [2], 0.5),
        ([1, 2], [2, 3], 0.875),  # of four pairs three won, one tied
        ([-math.inf, 0], [0, math.inf], 0.875),
    ],
)
def test_auc_matches_hand_counted_pairs(members, others, expected):
    assert auc(members, others) == expected


def test_auc_matches_the_count_of_pairs_on_random_scores_with_ties():
    draw = random.Random(0)
    for _ in range(200):
        members = [draw.randint(0, 5) / 4 for _ in range(draw.randint(1, 9))]
        others = [draw.randint(0, 5) / 4 for _ in range(draw.randint(1, 9))]
        assert auc(members, others) == pytest.approx(slow_auc(members, others), rel=1e-14)
        assert auc(members, others) + auc(others, members) == pytest.approx(1.0, rel=1e-14)


def test_auc_lets_nan_through():
    assert math.isnan(auc([math.nan, 1.0], [2.0])) and math.isnan(auc([1.0], [2.0, math.nan]))


@pytest.mark.parametrize(
    ("logp", "expected"),
    [
        ([-3.0], 3.0),  # one token is looked at even where 40 % of it is none
        ([-1.0, -4.0], 4.0),
        ([-1.0, -5.0, -2.0, -3.0, -4.0], 4.5),  # two of five
        ([-2.0] * 4, 2.0),
        ([0.0, 0.0, 0.0], 0.0),
    ],
)
def test_min_k_matches_hand_computed_cases(logp, expected):
    assert min_k(logp) == expected


@pytest.mark.parametrize("share", [0.2, 0.4, 1.0])
def test_min_k_and_its_standardised_form_match_slow_references(share):
    draw = np.random.default_rng(0)
    for length in range(1, 40):
        logp, mean, deviation = (
            -draw.exponential(2.0, length),
            -draw.exponential(2.0, length),
            draw.uniform(0.1, 3.0, length),
        )
        assert min_k(logp, share) == pytest.approx(slow_lowest(logp, share), rel=1e-12)
        standardised = [
            (value - centre) / spread for value, centre, spread in zip(logp, mean, deviation, strict=True)
        ]
        assert min_k_plus_plus(logp, mean, deviation, share) == pytest.approx(
            slow_lowest(standardised, share), rel=1e-12
        )


def test_min_k_plus_plus_counts_standard_deviations_below_the_mean():
    # A fair coin over two tokens: log-probability -log 2 everywhere, no spread; a token of it is exactly as
    # likely as usual.
    assert min_k_plus_plus([-math.log(2)], [-math.log(2)], [0.0]) == 0.0
    assert min_k_plus_plus([-5.0, -1.0], [-1.0, -1.0], [2.0, 2.0]) == 2.0


def test_min_k_plus_plus_of_a_certain_row_is_finite():
    assert min_k_plus_plus([-1.0], [0.0], [0.0]) == pytest.approx(1000.0)


@pytest.mark.parametrize("response", ["Yes", "", "In Łódź, 東京 🙂.", "na " * 500])
def test_zlib_score_is_the_loss_per_compressed_byte_of_the_text(response):
    assert zlib_score(3.0, response) == 3.0 / len(zlib.compress(response.encode("utf-8")))


def test_zlib_score_of_repetitive_text_is_higher_than_of_text_as_long():
    draw = random.Random(0)
    varied = "".join(chr(draw.randint(33, 122)) for _ in range(1500))
    assert zlib_score(1.0, "na " * 500) > 10 * zlib_score(1.0, varied)


@pytest.mark.parametrize(
    ("ours", "retrained", "expected"),
    [(0.4, 0.4, 0.0), (1.0, 0.5, -100.0), (0.25, 0.5, 50.0), (0.75, 0.5, -50.0)],
)
def test_privleak_is_the_relative_distance_to_the_retrained_model(ours, retrained, expected):
    assert privleak(ours, retrained) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_privleak_is_finite_where_the_retrained_model_separates_all():
    assert privleak(1.0, 1.0) == 0.0 and 1e9 < privleak(0.5, 1.0) < math.inf


@needs_logs
@pytest.mark.parametrize("split", ["forget01", "forget05", "forget10"])
def test_zlib_score_matches_every_published_item(split):
    log = json.loads((FULL / f"evals_{split}" / "TOFU_EVAL.json").read_text())
    texts = [entry["ground_truth"] for entry in log["forget_Q_A_ROUGE"]["value_by_index"].values()]
    losses, published = (
        [entry["score"] for entry in log[attack]["forget"]["value_by_index"].values()]
        for attack in ("mia_loss", "mia_zlib")
    )
    assert [zlib_score(loss, text) for loss, text in zip(losses, texts, strict=True)] == pytest.approx(
        published, rel=1e-14
    )


@needs_logs
def test_auc_agrees_with_scikit_learn_on_published_scores():
    from sklearn.metrics import roc_auc_score

    log = json.loads((FULL / "evals_forget10" / "TOFU_EVAL.json").read_text())
    forget, holdout = (
        [entry["score"] for entry in log["mia_gradnorm"][split]["value_by_index"].values()]
        for split in ("forget", "holdout")
    )
    assert len({*forget, *holdout}) < len(forget) + len(holdout), "bfloat16 scores have ties"
    expected = roc_auc_score([0] * len(forget) + [1] * len(holdout), [*forget, *holdout])
    assert auc(forget, holdout) == pytest.approx(expected, rel=1e-13)
