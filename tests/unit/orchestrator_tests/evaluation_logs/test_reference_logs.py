"""Golden values: per-item logs published by OpenUnlearning, recomputed by our formulas."""

import json
from functools import cache

import numpy as np
import pytest

from tests.support.places import SHARED
from trainables.metrics.aggregates import harmonic_mean, model_utility
from trainables.metrics.likelihood import probability
from trainables.metrics.rouge import rouge_l_recall
from trainables.metrics.truth_ratio import (
    OU_EPSILON,
    forget_quality,
    forget_truth_ratio,
    normalised_probability,
    other_truth_ratio,
    truth_ratio,
)

LOGS = SHARED / "data/reference_logs"
MODEL = "tofu_Llama-3.2-1B-Instruct"
SPLITS = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
ALL = [
    *(f"{MODEL}_full/evals_{split}" for split in SPLITS),
    *(f"{MODEL}_{split}" for split in SPLITS.values()),
]
if not LOGS.is_dir():
    pytest.skip("no published logs at ../shared/data/reference_logs", allow_module_level=True)


@cache
def read_log(folder):
    return json.loads((LOGS / folder / "TOFU_EVAL.json").read_text())


def per_item(log, metric, field):
    return [entry[field] for entry in log[metric]["value_by_index"].values()]


def ratios_of(log, prefix, right, *, epsilon=OU_EPSILON):
    correct, wrong = (
        per_item(log, f"{prefix}_Q_A_{right}", "avg_loss"),
        per_item(log, f"{prefix}_Q_A_PERT_Prob", "avg_loss"),
    )
    return [truth_ratio(c, w, epsilon=epsilon) for c, w in zip(correct, wrong, strict=True)]


@pytest.mark.parametrize("folder", ALL)
def test_probability_matches_published_values(folder):
    log = read_log(folder)
    for metric in ("forget_Q_A_Prob", "forget_Q_A_PARA_Prob", "retain_Q_A_Prob"):
        published = per_item(log, metric, "prob")
        assert [probability(loss) for loss in per_item(log, metric, "avg_loss")] == pytest.approx(
            published, rel=3e-6
        )  # stored in float32
        assert np.mean(published) == pytest.approx(log[metric]["agg_value"], rel=1e-14)


@pytest.mark.parametrize("folder", ALL)
@pytest.mark.parametrize(
    ("prefix", "right", "metric", "aggregate"),
    [
        (
            "forget",
            "PARA_Prob",
            "forget_truth_ratio",
            lambda ratios: forget_truth_ratio(ratios, epsilon=OU_EPSILON),
        ),
        ("retain", "PARA_Prob", "retain_Truth_Ratio", other_truth_ratio),
        ("ra", "Prob", "ra_Truth_Ratio", other_truth_ratio),
        ("wf", "Prob", "wf_Truth_Ratio", other_truth_ratio),
    ],
)
def test_truth_ratio_matches_published_values(folder, prefix, right, metric, aggregate):
    log = read_log(folder)
    ratios = ratios_of(log, prefix, right)
    assert ratios == pytest.approx(per_item(log, metric, "score"), rel=1e-12)
    assert aggregate(ratios) == pytest.approx(log[metric]["agg_value"], rel=1e-12)


def test_truth_ratio_without_epsilon_is_close_to_the_published_one():
    log = read_log(ALL[-1])
    exact = forget_truth_ratio(ratios_of(log, "forget", "PARA_Prob", epsilon=0.0))
    assert exact == pytest.approx(log["forget_truth_ratio"]["agg_value"], abs=2e-6)


@pytest.mark.parametrize("folder", ALL)
@pytest.mark.parametrize("prefix", ["ra", "wf"])
def test_normalised_probability_matches_published_values(folder, prefix):
    log = read_log(folder)
    correct, wrong = (
        per_item(log, f"{prefix}_Q_A_Prob", "avg_loss"),
        per_item(log, f"{prefix}_Q_A_PERT_Prob", "avg_loss"),
    )
    ours = [normalised_probability(c, w, epsilon=OU_EPSILON) for c, w in zip(correct, wrong, strict=True)]
    published = log[f"{prefix}_Q_A_Prob_normalised"]
    assert ours == pytest.approx(
        per_item(log, f"{prefix}_Q_A_Prob_normalised", "prob"), rel=2e-5
    )  # published from float32 probabilities
    assert np.mean(ours) == pytest.approx(published["agg_value"], abs=1e-6)


@pytest.mark.parametrize("folder", ALL)
def test_model_utility_matches_published_values(folder):
    log = read_log(folder)
    metrics = {}
    for name, prefix, suffix in (
        ("retain", "retain", ""),
        ("real_authors", "ra", "_normalised"),
        ("world_facts", "wf", "_normalised"),
    ):
        metrics[f"{name}_probability"] = log[f"{prefix}_Q_A_Prob{suffix}"]["agg_value"]
        metrics[f"{name}_rouge_l"] = np.mean(per_item(log, f"{prefix}_Q_A_ROUGE", "rougeL_recall"))
        metrics[f"{name}_truth_ratio"] = log[f"{prefix}_Truth_Ratio"]["agg_value"]
    assert model_utility(metrics) == pytest.approx(log["model_utility"]["agg_value"], rel=1e-14)
    assert harmonic_mean(list(metrics.values())) == model_utility(metrics)


@pytest.mark.parametrize(("forget", "retain"), SPLITS.items())
def test_forget_quality_matches_published_values(forget, retain):
    full, retrained = read_log(f"{MODEL}_full/evals_{forget}"), read_log(f"{MODEL}_{retain}")
    ours = forget_quality(ratios_of(full, "forget", "PARA_Prob"), ratios_of(retrained, "forget", "PARA_Prob"))
    assert ours == pytest.approx(full["forget_quality"]["agg_value"], rel=1e-12, abs=0)


def test_forget_quality_of_the_full_model_is_the_quoted_value():
    full, retrained = read_log(f"{MODEL}_full/evals_forget10"), read_log(f"{MODEL}_retain90")
    ours = forget_quality(
        ratios_of(full, "forget", "PARA_Prob", epsilon=0.0),
        ratios_of(retrained, "forget", "PARA_Prob", epsilon=0.0),
    )
    assert ours == pytest.approx(3.9054713571083378e-22, rel=1e-12, abs=0)


@pytest.mark.parametrize("metric", ["forget_Q_A_ROUGE", "ra_Q_A_ROUGE", "wf_Q_A_ROUGE"])
def test_rouge_l_recall_matches_published_values(metric):
    entries = list(read_log(f"{MODEL}_retain99")[metric]["value_by_index"].values())
    ours = [rouge_l_recall(entry["ground_truth"], entry["generation"]) for entry in entries]
    assert ours == pytest.approx([entry["rougeL_recall"] for entry in entries], rel=1e-14)
