"""Our own measurements, as `EvaluateJob` writes them, through `lethe score`."""

import copy
import json
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from orchestrator import cli
from orchestrator.evaluation_logs.scores import score
from search_spaces.user_errors import UserError
from tests.support.scored_logs import muse_log, write
from trainables.data.examples import Benchmark, ClosedQuestion, EvaluationPart, Example
from trainables.jobs import EvaluateJob
from trainables.metrics.evaluate import evaluate_parts
from trainables.worker import job_runner

SETS = {
    "forget": (
        Example(
            "f0",
            "Where was Kalo born?",
            "Born in Lima.",
            ("A native of Lima.",),
            ("A native of Oslo.", "A native of Rome."),
        ),
        Example("f1", "Where was Miren born?", "Born in Oslo.", ("From Oslo",), ("From Rome", "Never")),
    ),
    "retain": (
        Example("r0", "Wo lebt Zoë?", "In Łódź, 東京 🙂.", ("Łódź!",), ("Köln!",)),
        Example("r1", "Nothing?", ""),
    ),
    "real_authors": (
        Example("a0", "What does Kalo do?", "Works as a baker.", (), ("Works as a poet.", "No")),
    ),
    "world_facts": (Example("w0", "Say it", "Yes", (), ("No", "Never in my life")),),
    "holdout": (
        Example("h0", "Where was Nobody born?", "Born in Ravenna."),
        Example("h1", "Wer?", ""),
        Example("h2", "Say", "Yes, yes"),
    ),
}
QUESTION = ClosedQuestion("p0/city/test/0", "Where?", "forget", (("Lima", "In Lima"), ("Oslo", "In Oslo")), 0)
PARTS = {
    "validation": EvaluationPart(sets=SETS),
    "test": EvaluationPart(
        questions=(QUESTION,),
        sets={"forget": SETS["forget"][::-1], "retain": SETS["retain"][:1], "holdout": ()},
    ),
}


@pytest.fixture(scope="module")
def results(tiny):
    """What evaluation gave for the retrained and for the original model."""
    blurred = copy.deepcopy(tiny.model)
    blurred.lm_head.weight.data.mul_(0.5)
    benchmark = Benchmark((), (), (), (), PARTS, "")
    retrained = evaluate_parts(type(tiny.scorer())(blurred, tiny.tokenizer), benchmark, max_new_tokens=3)
    return {
        "retrained": retrained,
        "original": evaluate_parts(
            tiny.scorer(), benchmark, retrained_items=retrained.items, max_new_tokens=3
        ),
    }


@pytest.fixture
def measured(results, tmp_path, monkeypatch):
    """Writes the measurement of a model as a lane does. Returns: its path."""

    def measured(name, **more):
        runner = job_runner.JobRunner()
        monkeypatch.setattr(
            runner, "engine", lambda *arguments: SimpleNamespace(rank=0, tokenizer=SimpleNamespace())
        )
        monkeypatch.setattr(runner, "data", lambda *arguments: None)
        monkeypatch.setattr(job_runner, "measure", lambda *arguments, **options: results[name])
        monkeypatch.setattr(job_runner, "reference_logp", lambda *arguments: {})
        output = tmp_path / f"measured-{name}.json"
        runner.run(
            EvaluateJob(name=name, model={"base": "scratch"}, folder="nowhere", output=str(output), **more),
            lambda event: None,
        )
        return output

    return measured


@pytest.mark.parametrize("redact", [False, True])
def test_score_of_a_measurement_equals_its_metrics(measured, results, redact):
    original, retrained = measured("original", redact=redact), measured("retrained", redact=redact)
    assert score(original, retrained).ours == results["original"].metrics
    assert score(retrained, None).ours == results["retrained"].metrics
    assert {
        "validation/privleak",
        "validation/mia_reference",
        "test/forget_quality",
        "test/forget_true_mass",
    } <= score(original, retrained).ours.keys()


def test_measurement_is_recomputed_by_published_definitions_too(measured):
    found = score(measured("original"), measured("retrained"))
    ours, theirs = found.ours, {name: recomputed.value for name, recomputed in found.published.items()}
    same = {
        "forget_Q_A_Prob": "forget_probability",
        "forget_Q_A_PARA_Prob": "forget_paraphrase_probability",
        "forget_Q_A_ROUGE": "forget_rouge_l",
        "extraction_strength": "forget_extraction_strength_ou",
        "exact_memorization": "forget_exact_memorization",
        "forget_truth_ratio": "forget_truth_ratio",
        "forget_quality": "forget_quality",
        "retain_Truth_Ratio": "retain_truth_ratio",
        "ra_Q_A_Prob_normalised": "real_authors_probability",
        "wf_Truth_Ratio": "world_facts_truth_ratio",
        "model_utility": "model_utility",
        "mia_loss": "mia_loss",
        "mia_zlib": "mia_zlib",
        "mia_min_k": "mia_min_k",
        "mia_min_k_plus_plus": "mia_min_k_plus_plus",
        "mia_reference": "mia_reference",
        "privleak": "privleak",
    }
    for name, metric in same.items():
        assert theirs[f"validation/{name}"] == pytest.approx(ours[f"validation/{metric}"], rel=1e-7), name
    assert found.splits["validation/mia_loss"]["holdout"] == pytest.approx(
        ours["validation/holdout_nll_nats"]
    )


def test_metrics_without_their_items_are_not_made_up(measured):
    found = score(measured("original"), None)
    assert {"test/model_utility", "test/privleak", "test/mia_loss", "test/ra_Q_A_Prob"}.isdisjoint(
        found.published
    )
    assert "test/model_utility" in found.ours  # over the sets that were measured
    assert {
        "validation/forget_quality",
        "validation/privleak_abs",
        "test/forget_quality_log10",
    } <= found.missing.keys()
    assert "test/privleak" not in found.missing


def test_measurement_as_table_and_json(measured, results, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    original, retrained = str(measured("original")), str(measured("retrained"))
    text = CliRunner().invoke(cli.app, ["score", original, "--retrained", retrained]).stdout
    rows = {
        cells[1].strip(): cells[4].strip() for line in text.splitlines() if len(cells := line.split("│")) == 6
    }
    assert {name: rows[name] for name in results["original"].metrics} == dict.fromkeys(
        results["original"].metrics, "0"
    )
    found = json.loads(
        CliRunner().invoke(cli.app, ["score", original, "--retrained", retrained, "--json"]).stdout
    )
    assert found["lethe"] == results["original"].metrics


def refusal(path, retrained=None):
    with pytest.raises(UserError) as caught:
        score(path, retrained)
    return str(caught.value)


def test_measurement_of_another_kind_or_of_other_items_is_refused(measured, tmp_path):
    original, log = measured("original"), write(tmp_path / "MUSE_EVAL.json", muse_log())
    assert f"{log}: --retrained: {original} is a measurement of Lethe, and this is not" in refusal(
        original, log
    )
    assert (
        f"{original}: --retrained: {log} is an evaluation log of OpenUnlearning, and this is not"
        in refusal(log, original)
    )
    contents = json.loads(original.read_text())
    contents["items"]["test"]["forget"][0]["id"] = "q7"
    other = write(tmp_path / "other.json", contents)
    assert (
        f"{other}: items.test.forget: the retrained model was measured on other items than those of"
        f" {original}" in refusal(original, other)
    )
    del contents["items"]["test"]
    assert "items.test: the retrained model's measurement lacks a part" in refusal(
        original, write(other, contents)
    )


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("items",), [], "items: not an object (given: [])"),
        (
            ("items",),
            {"test": {"forget": []}},
            "items: the measurement has no items. Measure the model again",
        ),
        (("items", "test"), 3, "items.test: not an object (given: 3)"),
        (("items", "test", "forget"), {}, "items.test.forget: not a list of items (given: {})"),
        (("items", "test", "forget", 1), None, "items.test.forget[1]: not an object"),
        (("items", "test", "forget", 0, "id"), 4, "items.test.forget[0].id: not a text (given: 4)"),
        (
            ("items", "test", "forget", 0, "nll_nats"),
            "1.5",
            'items.test.forget[0].nll_nats: not a number (given: "1.5"). Allowed: a number or null',
        ),
        (
            ("items", "test", "questions", 0, "true_mass"),
            None,
            "items.test.questions[0].true_mass: not a number. Allowed: a number",
        ),
        (("items", "test", "questions", 0, "subset"), None, "items.test.questions[0].subset: not a text"),
        (
            ("items", "test", "questions", 0, "logp_nats"),
            [1.0, "x"],
            "items.test.questions[0].logp_nats: not a list of numbers",
        ),
        (("metrics",), None, "metrics: not an object"),
    ],
)
def test_malformed_measurement_is_refused_with_its_place(measured, path, value, expected):
    file = measured("original")
    contents = json.loads(file.read_text())
    place = contents
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert f"{file}: {expected}" in refusal(write(file, contents))


def test_question_without_one_of_its_masses_is_refused(measured):
    file = measured("original")
    contents = json.loads(file.read_text())
    del contents["items"]["test"]["questions"][0]["posterior"]
    assert "items.test.questions[0].posterior: not a number" in refusal(write(file, contents))


def test_measurement_from_before_the_membership_metrics_is_scored_without_them(measured):
    file = measured("original")
    contents = json.loads(file.read_text())
    for items in contents["items"]["validation"].values():
        for item in items:
            for field in ("zlib_nats", "min_k_nats", "min_k_plus_plus", "reference_nats"):
                item.pop(field, None)
    found = score(write(file, contents), None)
    assert "validation/forget_probability" in found.ours and "validation/mia_min_k" not in found.ours
    assert {"validation/privleak", "validation/mia_min_k"}.isdisjoint(found.published)


def test_ids_with_dots_stay_one_item(measured, tmp_path):
    contents = json.loads(measured("original").read_text())
    for item in contents["items"]["validation"]["forget"]:
        item["id"] = f"a.b.{item['id']}"
    assert (
        score(write(tmp_path / "dotted.json", contents), None).published["validation/forget_Q_A_Prob"].value
        is not None
    )
