import copy
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator import cli
from orchestrator.evaluation_logs.evaluation_log import EvaluationLog
from orchestrator.evaluation_logs.item_forms import items_of_log, log_of_items
from orchestrator.evaluation_logs.scores import score
from search_spaces.user_errors import UserError
from tests.support.mutations import ODD_VALUES, parent_of, paths_of
from tests.support.places import ROOT
from tests.support.scored_logs import NONSENSE, answers, metric, muse_log, retrained_muse_log, tofu_log, write


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def lethe(*arguments):
    done = CliRunner().invoke(cli.app, ["score", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


def refusal(contents, *arguments):
    """What is said about a file with these contents."""
    path = write(Path("LOG.json"), contents)
    done = CliRunner().invoke(cli.app, ["score", str(path), *map(str, arguments), "--json"])
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    return done.stderr


def changed(log, **entries):
    return {**copy.deepcopy(log), **entries}


def test_muse_log_has_its_hand_computed_aggregates(tmp_path):
    log, beside = (
        write(tmp_path / "MUSE_EVAL.json", muse_log()),
        write(tmp_path / "retrained.json", retrained_muse_log()),
    )
    found = json.loads(lethe(log, "--retrained", beside, "--json"))
    assert found["openunlearning"] == pytest.approx(
        {
            "forget_knowmem_ROUGE": 0.375,
            "retain_knowmem_ROUGE": 0.7,
            "forget_verbmem_ROUGE": 0.2,
            "extraction_strength": 0.75,
            "exact_memorization": 0.25,
            "mia_min_k": 0.875,
            "mia_zlib": 0.5,
            "privleak": -75.0,
        },
        rel=1e-9,
    )
    assert found["mia_splits"] == {
        "mia_min_k": {"forget": 1.5, "holdout": 2.5},
        "mia_zlib": {"forget": 0.5, "holdout": 0.5},
    }
    assert found["lethe"] == pytest.approx(
        {
            "verbmem_rouge_l_f1": 0.2,
            "verbmem_rouge_l": 0.8,
            "forget_knowmem_rouge_l_f1": 0.375,
            "forget_knowmem_rouge_l": 0.625,
            "retain_knowmem_rouge_l_f1": 0.7,
            "retain_knowmem_rouge_l": 0.3,
            "forget_extraction_strength_ou": 0.75,
            "forget_exact_memorization": 0.25,
            "mem": 2 / (1 / 0.25 + 1 / 0.75),
            "mia_min_k": 0.875,
            "mia_zlib": 0.5,
            "privleak": -75.0,
            "privleak_abs": 75.0,
        },
        rel=1e-9,
    )
    assert {name: list(why) for name, why in found["not_recomputed"].items()} == {
        "openunlearning": [],
        "lethe": ["forget_extraction_strength"],
    }


def test_truth_ratios_are_made_anew_from_the_losses(tmp_path):
    # The ratios that the log stores are 1/2 and 2; these losses say 1/4 and 2.
    log = changed(tofu_log(), forget_Q_A_PERT_Prob=tofu_log()["forget_Q_A_PERT_Prob"])
    log["forget_Q_A_PERT_Prob"]["value_by_index"]["0"]["avg_loss"] = [math.log(8), math.log(8)]
    found = score(write(tmp_path / "LOG.json", log), None)
    assert found.published["forget_truth_ratio"].value == pytest.approx(0.5, rel=1e-9)
    assert found.ours["forget_truth_ratio"] == pytest.approx((0.25 + 0.5) / 2)
    assert found.ours["forget_nll_nats"] == pytest.approx(math.log(8) / 2)


def test_several_wordings_of_an_answer_count_as_their_mean(tmp_path):
    log = {"forget_Q_A_PARA_Prob": metric("prob", [0.1, 0.3], [0.5, 0.7])}
    found = score(write(tmp_path / "LOG.json", log), None)
    assert found.published["forget_Q_A_PARA_Prob"].value == pytest.approx(0.4)
    assert found.ours == {"forget_paraphrase_probability": pytest.approx(0.4)}


def test_tofu_takes_the_recall_of_rouge_and_muse_its_f1(tmp_path):
    found = score(
        write(
            tmp_path / "LOG.json",
            {"forget_Q_A_ROUGE": answers(0.1, 0.3), "forget_verbmem_ROUGE": answers(0.1, 0.3)},
        ),
        None,
    )
    assert found.published["forget_Q_A_ROUGE"].value == pytest.approx(0.8)
    assert found.published["forget_verbmem_ROUGE"].value == pytest.approx(0.2)


def test_newer_name_of_the_truth_ratio_counts_too(tmp_path):
    log = {"forget_Truth_Ratio": metric("score", 0.5, 2.0), "forget_quality": {"agg_value": None}}
    path = write(tmp_path / "LOG.json", log)
    found = score(path, path).published
    assert (found["forget_Truth_Ratio"].value, found["forget_quality"].value) == (
        pytest.approx(0.5, rel=1e-9),
        1.0,
    )


def test_table_sets_the_logs_own_value_and_the_difference_beside_ours(tmp_path):
    log = changed(muse_log(), extraction_strength={**metric("score", 0.5, 1.0), "agg_value": 0.5})
    text = lethe(write(tmp_path / "LOG.json", log))
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:5]]
        for line in text.splitlines()
        if len(cells := line.split("│")) == 6
    }
    assert rows["extraction_strength"] == ["0.75", "0.5", "2.5e-01"]
    assert rows["mia_zlib.holdout"] == ["0.5", "123", "-1.2e+02"]
    assert "privleak: recomputed: against an AUC of .5: give --retrained" in text


def test_every_metric_that_is_not_recomputed_has_a_line_with_its_reason(tmp_path):
    log = changed(tofu_log(), forget_Q_A_gibberish=metric("score", 0.1), privleak={"agg_value": 1.0})
    lines = lethe(write(tmp_path / "LOG.json", log)).splitlines()
    assert (
        "forget_quality: not recomputed: give --retrained, the log of the model retrained without the"
        " forget set" in lines
    )
    assert "privleak: not recomputed: the log has no mia_min_k" in lines
    assert "forget_Q_A_gibberish: not recomputed: its definition is not implemented" in lines
    assert any(
        line.startswith("model_utility: not recomputed: the log has no retain_Q_A_Prob, ") for line in lines
    )


def test_value_that_is_not_finite_is_null_in_json(tmp_path):
    log = changed(muse_log(), extraction_strength=metric("score", math.nan, 1.0))
    text = lethe(write(tmp_path / "LOG.json", log), "--json")
    found = json.loads(text, parse_constant=pytest.fail)
    assert (
        found["openunlearning"]["extraction_strength"] is None
        and found["lethe"]["forget_extraction_strength_ou"] is None
    )


def test_score_of_a_log_needs_no_heavy_imports(tmp_path):
    path = write(tmp_path / "LOG.json", muse_log())
    code = (
        "import sys\nfrom orchestrator.cli import app\ntry:\n    app(sys.argv[1:])\nexcept SystemExit as"
        " end:\n    assert not end.code\nprint(sorted({'torch', 'ray', 'optuna', 'mlflow', 'transformers',"
        " 'deepspeed'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "score", str(path)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.splitlines()[-1] == "[]"


ITEM = "LOG.json: extraction_strength.value_by_index"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            {"agg_value": 0.5},
            (
                f"{ITEM}: the per-item values are missing. Give a log that has them: aggregates are"
                " recomputed and never copied"
            ),
        ),
        (
            {"agg_value": 0.5, "value_by_index": [0.5]},
            f"{ITEM}: not an object of items by index (given: [0.5])",
        ),
        ({"agg_value": 0.5, "value_by_index": {}}, f"{ITEM}: no item has a `score`"),
        (metric("score", None), f"{ITEM}: no item has a `score`"),
        (
            metric("score", 0.5, "0.7"),
            f'{ITEM}.1.score: not a number (given: "0.7"). Allowed: a number, a list of numbers, or null',
        ),
        (metric("score", 0.5, []), f"{ITEM}.1.score: not a number (given: [])"),
        (metric("score", True), f"{ITEM}.0.score: not a number (given: true)"),
        (metric("prob", 0.5), f'{ITEM}.0: the item has no `score` (given: ["prob"])'),
        (0.5, "LOG.json: extraction_strength: not a metric with its items (given: 0.5)"),
    ],
)
def test_malformed_items_are_refused_with_their_place(entry, expected):
    assert expected in refusal(changed(muse_log(), extraction_strength=entry))


def test_attack_without_a_split_is_refused_with_its_place():
    broken = {"forget": metric("score", 1.0), "auc": 1.0, "agg_value": 1.0}
    assert "LOG.json: mia_loss.holdout: the log lacks this metric" in refusal(
        changed(muse_log(), mia_loss=broken)
    )


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ([1, 2], "this JSON is not an evaluation log (given: [1, 2]). Give TOFU_EVAL.json or MUSE_EVAL.json"),
        ({}, "this JSON is not an evaluation log"),
        ({"name": "sweep", "trials": {"a": 1}}, "this JSON is not an evaluation log"),
        (
            {"forget_quality": 0.1, "model_utility": 0.6},
            "this file holds aggregates only, without the values of the items",
        ),
    ],
)
def test_json_that_is_no_log_is_refused_with_what_to_give(contents, expected):
    assert expected in refusal(contents)


def test_summary_is_refused_with_the_evaluation_beside_it(tmp_path):
    path = write(tmp_path / "TOFU_SUMMARY.json", {"forget_quality": 0.1})
    with pytest.raises(UserError, match=r"Give the evaluation beside it: .*/TOFU_EVAL\.json"):
        score(path, None)


def test_file_that_cannot_be_read_is_refused_with_what_to_give(tmp_path):
    (tmp_path / "broken.json").write_text('{"a": ')
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    for path, expected in (
        ("nowhere.json", "no such file"),
        ("x" * 300, "cannot be read: File name too long"),
        ("broken.json", "not JSON: "),
        ("bytes.json", "not JSON: "),
    ):
        with pytest.raises(
            UserError, match=rf"{expected}.*Give TOFU_EVAL\.json or MUSE_EVAL\.json of OpenUnlearning"
        ):
            score(Path(path), None)
    write(tmp_path / "TOFU_EVAL.json", tofu_log())
    with pytest.raises(UserError, match=r"this is a folder\. Give .*TOFU_EVAL\.json\."):
        score(tmp_path, None)


def test_missing_retrained_log_is_refused_by_its_own_name():
    assert "error: nowhere.json: no such file" in refusal(muse_log(), "--retrained", "nowhere.json")


def test_retrained_log_without_the_attack_is_refused_by_its_own_name(tmp_path):
    beside = write(tmp_path / "retrained.json", {"extraction_strength": metric("score", 0.1)})
    assert "retrained.json: mia_min_k.forget: the log lacks this metric" in refusal(
        muse_log(), "--retrained", beside
    )


def test_retrained_log_with_fewer_holdout_items_is_refused(tmp_path):
    beside = retrained_muse_log()
    del beside["mia_min_k"]["holdout"]["value_by_index"]["1"]
    message = refusal(muse_log(), "--retrained", write(tmp_path / "retrained.json", beside))
    assert (
        "retrained.json: mia_min_k.holdout: the retrained model's log is of another split: it has 1 items"
        " where LOG.json has 2" in message
    )


@pytest.mark.parametrize("seed", range(0, 300, 50))
def test_broken_log_is_scored_or_refused_by_one_message(tmp_path, seed):
    refused = 0
    for number in range(seed, seed + 50):
        chance = random.Random(number)
        log = {**muse_log(), **tofu_log()}
        path = chance.choice(list(paths_of(log)))
        if number % 3:
            parent_of(log, path)[path[-1]] = chance.choice(ODD_VALUES)
        else:
            del parent_of(log, path)[path[-1]]
        file = write(tmp_path / "LOG.json", log)
        try:
            score(file, file)
        except UserError as error:
            refused += 1
            assert str(file) in str(error) and error.key
    assert refused > 10


def test_items_survive_the_way_to_a_log_and_back():
    items = items_of_log(EvaluationLog("a", {**muse_log(), **tofu_log()}))
    assert items_of_log(log_of_items("b", items))["forget"][0].keys() <= items["forget"][0].keys()
    for name, members in items_of_log(log_of_items("b", items)).items():
        for member, original in zip(members, items[name], strict=True):
            assert member == {field: original[field] for field in member}


def test_logs_own_aggregates_are_never_computed_with(tmp_path):
    log = {**muse_log(), **tofu_log()}
    path = write(tmp_path / "LOG.json", log)
    honest = json.loads(json.dumps(log).replace(str(NONSENSE), "0.5"))
    assert (
        score(path, path).published == score(other := write(tmp_path / "OTHER.json", honest), other).published
    )
