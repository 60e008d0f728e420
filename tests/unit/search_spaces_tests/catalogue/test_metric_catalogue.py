import json

import pytest

from search_spaces.catalogue.available_metrics import available_metrics, default_objectives
from search_spaces.catalogue.metric_catalogue import METRICS
from search_spaces.settings.sweep_settings import SweepSettings


def sweep_of(data, evaluation=None, **model):
    return SweepSettings.model_validate(
        {
            "name": "a",
            "model": model or {"base": "scratch"},
            "data": data,
            "evaluation": evaluation or {"gradient_norm": True},
        }
    )


@pytest.fixture
def own_files(tmp_path):
    def write(**extra):
        for name in ("forget", "retain"):
            (tmp_path / f"{name}.jsonl").write_text(json.dumps({"prompt": name, "response": "x", **extra}))
        return {
            "benchmark": "local_files",
            "forget": str(tmp_path / "forget.jsonl"),
            "retain": str(tmp_path / "retain.jsonl"),
        }

    return write


def test_metrics_have_a_range_and_a_bad_end_where_they_have_a_direction():
    for name, metric in METRICS.items():
        assert metric.range[0] < metric.range[1], name
        assert metric.direction is None or metric.worst in metric.range, name


def test_metrics_of_the_closed_world_are_those_that_evaluation_gives():
    mass = pytest.importorskip("trainables.metrics.closed_world_mass")
    masses = dict.fromkeys(mass.MASSES, 0.5)
    items = [
        {"id": f"p0/city/{subset}", "subset": subset, "logp_nats": [-1.0], **masses}
        for subset in ("forget", "retain")
    ]
    given = mass.aggregate_questions(items, {"forget_rephrased_mass": 0.5}, items)
    assert set(given) == available_metrics(sweep_of({"benchmark": "closed_world"}))
    unknown = available_metrics(sweep_of({"benchmark": "closed_world"}, target="somewhere"))
    assert set(given) - unknown == {"forget_total_variation", "retain_total_variation"}


def test_metrics_of_tofu_are_those_that_evaluation_gives():
    aggregates = pytest.importorskip("trainables.metrics.aggregates")
    means = set(aggregates.MEANS) - {"rouge_l_f1", "accuracy"}  # of MUSE's and of multiple-choice sets only
    everything = dict.fromkeys((*means, "truth_ratio", *aggregates.ATTACKS.values()), 0.5)
    unworded = everything | {"paraphrase_probability": None}
    without_answers = unworded | {"rouge_l": None, "truth_ratio": None}
    sets = {
        "forget": [everything],
        "retain": [everything],
        "real_authors": [unworded],
        "world_facts": [unworded],
        "holdout": [without_answers],
    }
    assert set(aggregates.aggregate_sets(sets, sets)) == available_metrics(sweep_of({"benchmark": "tofu"}))


def test_tofu_folder_without_the_holdout_split_has_no_membership_metrics(tmp_path):
    data = {"benchmark": "tofu", "path": str(tmp_path), "forget": "forget05"}
    (tmp_path / "holdout10.json").touch()
    assert "mia_loss" not in available_metrics(sweep_of(data))
    (tmp_path / "holdout05.json").touch()
    assert "mia_loss" in available_metrics(sweep_of(data))


def test_forget_quality_needs_a_retrained_model():
    data = {"benchmark": "tofu"}
    assert "forget_quality" not in available_metrics(sweep_of(data, target="hub/model"))
    assert "forget_quality" in available_metrics(sweep_of(data, target="hub/model", retrained="hub/other"))


def test_a_subset_of_authors_has_no_real_authors():
    names = available_metrics(sweep_of({"benchmark": "tofu", "authors": 40, "forget_authors": 4}))
    assert "retain_truth_ratio" in names and not any(
        name.startswith(("real_authors", "world_facts")) for name in names
    )


def test_own_files_give_paraphrase_metrics_when_a_line_has_paraphrases(own_files):
    assert "forget_paraphrase_probability" not in available_metrics(sweep_of(own_files()))
    assert "forget_paraphrase_probability" in available_metrics(sweep_of(own_files(paraphrases=["y"])))


def test_own_files_give_holdout_metrics_when_there_is_a_holdout(own_files):
    data = own_files()
    assert "holdout_nll_nats" not in available_metrics(sweep_of(data))
    assert "holdout_nll_nats" in available_metrics(sweep_of({**data, "holdout": data["retain"]}))


def test_membership_metrics_are_those_that_evaluation_gives_with_a_holdout_and_a_retrained_model(own_files):
    aggregates = pytest.importorskip("trainables.metrics.aggregates")
    items = {name: [dict.fromkeys(aggregates.ATTACKS.values(), 0.5)] for name in aggregates.ATTACKED}
    alone, beside = aggregates.aggregate_attacks(items), aggregates.aggregate_attacks(items, items)
    assert set(beside) - set(alone) == {"privleak", "privleak_abs"}
    data = own_files()
    available = available_metrics(sweep_of({**data, "holdout": data["retain"]}))
    assert set(beside) <= available
    assert set(beside).isdisjoint(available_metrics(sweep_of(data)))


def test_metrics_that_compare_membership_need_a_retrained_model(own_files):
    data = own_files()
    available = available_metrics(sweep_of({**data, "holdout": data["retain"]}, target="hub/model"))
    assert {"mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus"} <= available
    assert available.isdisjoint({"mia_reference", "privleak", "privleak_abs"})


@pytest.mark.parametrize(
    ("benchmark", "expected"),
    [
        ("closed_world", {"forget_true_mass": ("minimize", 1.0), "utility": ("maximize", 0.0)}),
        ("tofu", {"mem": ("maximize", 0.0), "model_utility": ("maximize", 0.0)}),
        ("muse", {"verbmem_rouge_l_f1": ("minimize", 1.0), "retain_knowmem_rouge_l_f1": ("maximize", 0.0)}),
        ("wmdp", {"wmdp_accuracy": ("minimize", 1.0), "retain_probability": ("maximize", 0.0)}),
        (
            "local_files",
            {"forget_extraction_strength": ("minimize", 1.0), "retain_probability": ("maximize", 0.0)},
        ),
    ],
)
def test_default_objectives_start_from_the_worst_corner(own_files, benchmark, expected):
    corpora = {"wmdp": {"forget_corpus": "forget.jsonl", "retain_corpus": "retain.jsonl"}}
    data = (
        own_files() if benchmark == "local_files" else {"benchmark": benchmark, **corpora.get(benchmark, {})}
    )
    sweep = sweep_of(data, target="hub/model")
    objectives = default_objectives(sweep)
    assert {
        name: (objective.direction, objective.reference) for name, objective in objectives.items()
    } == expected
    assert objectives.keys() <= available_metrics(sweep)
