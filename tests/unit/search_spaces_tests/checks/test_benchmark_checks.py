"""Errors in sweep files on MUSE or WMDP, found before any data are loaded."""

import pytest
import yaml

from search_spaces.loading.loader import load_sweep
from search_spaces.user_errors import UserError
from tests.support.tiny_benchmarks import write_muse, write_wmdp

SPACE = {"forget.method": {"choice": ["npo", "graddiff"]}, "retain.weight": {"log_uniform": [0.5, 5.0]}}


@pytest.fixture
def sweep_file(tmp_path):
    def write(data, space=SPACE, **more):
        file = tmp_path / "mine.yaml"
        file.write_text(
            yaml.safe_dump({"model": {"target": "org/model"}, "data": data, "space": space, **more})
        )
        return file

    return write


@pytest.fixture
def message(sweep_file):
    def of(data, **more):
        with pytest.raises(UserError) as caught:
            load_sweep(sweep_file(data, **more))
        return str(caught.value)

    return of


@pytest.fixture
def muse(tmp_path):
    return {"benchmark": "muse", "path": str(write_muse(tmp_path / "muse"))}


@pytest.fixture
def wmdp(tmp_path):
    return {"benchmark": "wmdp", **write_wmdp(tmp_path / "wmdp")}


def test_folder_that_is_not_there_is_one_problem(message, tmp_path):
    text = message({"benchmark": "muse", "path": str(tmp_path / "nowhere")})
    assert (
        "data.path: no such folder" in text
        and "Give a hub id, or a folder with one folder per configuration" in text
    )
    assert text.count("nowhere") == 1


@pytest.mark.parametrize(
    ("gone", "forget"),
    [
        ("raw/forget.json", "raw"),
        ("sust/forget_2.json", "sust_2"),
        ("verbmem/forget.jsonl", "raw"),
        ("privleak/holdout.json", "scal_1"),
    ],
)
def test_missing_split_is_named(message, muse, tmp_path, gone, forget):
    (tmp_path / "muse" / gone).unlink()
    shown = gone.removesuffix("l") if gone.endswith("jsonl") else gone
    assert f"data.path: the folder has no {shown} (nor .jsonl)" in message({**muse, "forget": forget})


def test_split_of_another_request_is_not_missed(sweep_file, muse, tmp_path):
    (tmp_path / "muse" / "sust" / "forget_2.json").unlink()
    assert load_sweep(sweep_file({**muse, "forget": "sust_1"})).data.forget == "sust_1"


def test_every_missing_place_of_wmdp_is_reported_at_once(message, wmdp):
    text = message({**wmdp, "path": "./questions", "mmlu": "./facts", "forget_corpus": "gone.jsonl"})
    assert (
        all(f"data.{key}: no such f" in text for key in ("path", "mmlu", "forget_corpus"))
        and "data.retain_corpus" not in text
    )


def test_missing_field_of_wmdp_is_named(message, wmdp, tmp_path):
    (tmp_path / "wmdp" / "wmdp-chem" / "test.json").unlink()
    assert "the folder has no wmdp-chem/test.json" in message({**wmdp, "subset": "chem"})


def test_corpora_must_be_given(message):
    text = message({"benchmark": "wmdp"})
    assert "data.forget_corpus: is missing." in text and "data.retain_corpus: is missing." in text


def test_local_paths_become_absolute_and_hub_ids_stay(sweep_file, muse, wmdp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_sweep(sweep_file({**muse, "path": "muse"})).data.path == str(tmp_path / "muse")
    assert load_sweep(sweep_file({"benchmark": "muse"})).data.path == "muse-bench/MUSE-News"
    data = load_sweep(
        sweep_file({**wmdp, "path": "wmdp", "mmlu": "cais/mmlu", "forget_corpus": "wmdp/forget.jsonl"})
    ).data
    assert (data.path, data.mmlu, data.forget_corpus) == (
        str(tmp_path / "wmdp"),
        "cais/mmlu",
        str(tmp_path / "wmdp" / "forget.jsonl"),
    )


@pytest.mark.parametrize("searched", [True, False])
@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        (
            "forget.method",
            "dpo",
            (
                "IdkDPO prefers another answer to the same prompt, and the forget set of muse is running text"
                ' without prompts (given: "dpo")'
            ),
        ),
        (
            "beliefs",
            "token+sequence",
            "sequence beliefs are sampled answers to forget prompts, and the forget set of muse",
        ),
        ("beliefs", "sequence", "sequence beliefs are sampled"),
    ],
)
def test_answers_to_running_text_are_refused(message, muse, searched, key, value, remedy):
    space, trial = dict(SPACE), {}
    if searched:
        space[key] = {"choice": ["npo" if key == "forget.method" else "none", value]}
    elif key == "beliefs":
        trial = {key: value}
    else:
        del space[key]
        trial = {"forget": {"method": value}}
    text = message(muse, space=space, trial=trial)
    assert f"{'space' if searched else 'trial'}.{key}: {remedy}" in text and "Remove it." in text


def test_token_beliefs_on_running_text_are_fine(sweep_file, muse):
    space = {**SPACE, "beliefs": {"choice": ["none", "token"]}}
    assert "beliefs" in load_sweep(sweep_file(muse, space=space)).space


def test_metric_of_mmlu_needs_it(message, wmdp):
    objectives = {
        "wmdp_accuracy": {"direction": "minimize", "reference": 1.0},
        "mmlu_accuracy": {"direction": "maximize", "reference": 0.25},
    }
    assert "it needs questions of general knowledge: give data.mmlu" in message(
        {**wmdp, "mmlu": None}, objectives=objectives
    )


def test_rouge_of_running_text_is_refused(message, muse):
    objectives = {
        "forget_rouge_l": {"direction": "minimize", "reference": 1.0},
        "retain_probability": {"direction": "maximize", "reference": 0.0},
    }
    assert "it belongs to local_files and tofu, and data.benchmark is muse" in message(
        muse, objectives=objectives
    )
