"""Golden values: every aggregate of every published log, from per-item values only, through the command
line."""

import json
from functools import cache

import pytest
from typer.testing import CliRunner

from orchestrator import cli
from search_spaces.catalogue.metric_catalogue import METRICS
from tests.support.scored_logs import SPLITS, WITHOUT_LOGS, published

if not published("retain90").is_file():
    pytest.skip(WITHOUT_LOGS, allow_module_level=True)

CASES = {**{forget: retain for forget, retain in SPLITS.items()}, **dict.fromkeys(SPLITS.values())}
"""Log, and the retrained model's log to compare it with."""


@cache
def logged(name):
    return json.loads(published(name).read_text())


@cache
def scored(name, retrained):
    beside = [] if retrained is None else ["--retrained", str(published(retrained))]
    done = CliRunner().invoke(cli.app, ["score", str(published(name)), *beside, "--json"])
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CASES)
def test_every_published_aggregate_is_reproduced(name):
    expected = {metric: entry["agg_value"] for metric, entry in logged(name).items()}
    found = scored(name, CASES[name])["openunlearning"]
    assert found.keys() == expected.keys() and len(found) == (31 if name in SPLITS else 30)
    null = {metric for metric, value in expected.items() if value is None}
    assert (
        null
        == {metric for metric, value in found.items() if value is None}
        == (set() if name in SPLITS else {"forget_quality"})
    )
    for metric in expected.keys() - null:
        # No absolute tolerance: a forget quality of 4e-22 would agree with any other.
        assert found[metric] == pytest.approx(expected[metric], rel=1e-9, abs=0), metric


@pytest.mark.parametrize("name", CASES)
def test_every_published_mean_of_an_attack_is_reproduced_bit_for_bit(name):
    attacks = {metric: entry for metric, entry in logged(name).items() if metric.startswith("mia_")}
    expected = {
        metric: {split: entry[split]["agg_value"] for split in ("forget", "holdout")}
        for metric, entry in attacks.items()
    }
    assert scored(name, CASES[name])["mia_splits"] == expected
    assert len(expected) == (6 if name in SPLITS else 5)


@pytest.mark.parametrize("name", SPLITS.values())
def test_retrained_log_has_no_forget_quality_and_says_what_it_takes(name):
    found = scored(name, None)
    assert found["openunlearning"]["forget_quality"] is None
    assert "--retrained" in found["not_recomputed"]["openunlearning"]["forget_quality"]
    assert found["not_recomputed"]["lethe"].keys() > {"forget_quality", "privleak"}
    assert found["lethe"].keys().isdisjoint({"forget_quality", "privleak", "privleak_abs", "mia_reference"})


@pytest.mark.parametrize("name", CASES)
def test_our_metrics_are_catalogued_and_near_the_published_ones(name):
    found = scored(name, CASES[name])
    ours, theirs = found["lethe"], found["openunlearning"]
    assert ours.keys() <= METRICS.keys()
    same = {
        "forget_extraction_strength_ou": "extraction_strength",
        "forget_exact_memorization": "exact_memorization",
        "forget_probability": "forget_Q_A_Prob",
        "forget_paraphrase_probability": "forget_Q_A_PARA_Prob",
        "retain_rouge_l": "retain_Q_A_ROUGE",
        "mia_min_k_plus_plus": "mia_min_k_plus_plus",
    }
    assert {metric: ours[metric] for metric in same} == pytest.approx(
        {metric: theirs[name] for metric, name in same.items()}, rel=1e-14
    )
    # Ours have no epsilon in their denominators.
    near = {
        "model_utility": "model_utility",
        "forget_truth_ratio": "forget_truth_ratio",
        "world_facts_truth_ratio": "wf_Truth_Ratio",
        "real_authors_probability": "ra_Q_A_Prob_normalised",
    }
    assert {metric: ours[metric] for metric in near} == pytest.approx(
        {metric: theirs[name] for metric, name in near.items()}, rel=3e-6
    )


def test_quoted_values_of_the_full_model_on_forget10():
    ours = scored("forget10", "retain90")["lethe"]
    assert ours["forget_quality"] == pytest.approx(3.9054713571083378e-22, rel=1e-12, abs=0)
    assert ours["forget_quality_log10"] == pytest.approx(-21.4083265, rel=1e-8)
    assert ours["mem"] == pytest.approx(0.0868483888, rel=1e-8)
    assert (ours["privleak"], ours["privleak_abs"]) == pytest.approx((-99.457391, 99.457391), rel=1e-7)
    assert ours["holdout_nll_nats"] == pytest.approx(2.2405189127, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "other"), [("forget10", "retain95"), ("forget05", "retain90"), ("forget01", "retain90")]
)
def test_retrained_log_of_another_split_is_refused_with_the_right_ones(name, other):
    done = CliRunner().invoke(
        cli.app, ["score", str(published(name)), "--retrained", str(published(other)), "--json"]
    )
    assert (done.exit_code, done.stdout) == (2, "")
    assert (
        f"error: {published(other)}: forget_truth_ratio: the retrained model's log is of another split"
        in done.stderr
    )
    assert "retain90 goes with forget10" in done.stderr


def test_privleak_without_the_retrained_log_is_against_chance_and_says_so():
    found = CliRunner().invoke(cli.app, ["score", str(published("forget10"))])
    assert found.exit_code == 0
    assert "privleak: recomputed: against an AUC of .5: give --retrained" in found.stdout
    assert "forget_quality: not recomputed: give --retrained" in found.stdout
    assert scored("forget10", None)["openunlearning"]["privleak"] == pytest.approx(
        100 * (0.00335 - 0.5) / 0.5, rel=1e-9
    )
