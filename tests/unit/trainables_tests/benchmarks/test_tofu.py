import json

import pytest

from search_spaces.settings.data_settings import TofuData
from search_spaces.user_errors import UserError
from tests.support.places import SHARED
from trainables.benchmarks.registry import load_benchmark
from trainables.benchmarks.tofu import load_tofu

TOFU = SHARED / "data" / "tofu"
needs_tofu = pytest.mark.skipif(not TOFU.exists(), reason=f"TOFU is not at {TOFU}")


@pytest.fixture(autouse=True)
def _private_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def row(number, *, perturbed=False):
    extra = (
        {"paraphrased_answer": f"para {number}", "perturbed_answer": [f"wrong {number}", "no"]}
        if perturbed
        else {}
    )
    return {"question": f"Question {number}?", "answer": f"Answer {number}.", **extra}


def write(folder, name, rows, *, array=False):
    text = json.dumps(rows) if array else "\n".join(json.dumps(item) for item in rows)
    (folder / f"{name}.json").write_text(text)


@pytest.fixture
def small(tmp_path):
    """Six authors; the last two and the first have perturbed answers."""
    write(tmp_path, "full", [row(number) for number in range(120)], array=True)
    write(tmp_path, "forget10_perturbed", [row(number, perturbed=True) for number in range(80, 120)])
    write(tmp_path, "retain_perturbed", [row(number, perturbed=True) for number in range(20)])
    return tmp_path


def test_author_subset_forgets_the_last_authors_of_the_last_ones(small):
    benchmark = load_tofu(TofuData(path=str(small), authors=3, forget_authors=1))
    assert [example.prompt for example in benchmark.forget] == [
        f"Question {number}?" for number in range(100, 120)
    ]
    assert [example.prompt for example in benchmark.retain] == [
        f"Question {number}?" for number in range(60, 100)
    ]
    assert benchmark.target_text == benchmark.retain + benchmark.forget
    assert benchmark.retrained_text == benchmark.retain


def test_wrong_answers_are_found_by_question(small):
    benchmark = load_tofu(TofuData(path=str(small), authors=3, forget_authors=1))
    assert benchmark.forget[0].paraphrases == ("para 100",)
    assert benchmark.forget[0].perturbed == ("wrong 100", "no")
    assert benchmark.retain[0].perturbed == ()


def test_retain_is_evaluated_where_it_has_wrong_answers(small):
    benchmark = load_tofu(TofuData(path=str(small), authors=3, forget_authors=1))
    sets = [part.sets for part in benchmark.parts.values()]
    assert [{name: len(items) for name, items in part.items()} for part in sets] == [
        {"forget": 10, "retain": 10}
    ] * 2
    assert not {item.id for item in sets[0]["forget"]} & {item.id for item in sets[1]["forget"]}
    assert all(item.perturbed for part in sets for item in part["retain"])


def test_holdout_of_the_forget_split_is_evaluated_where_it_is_there(small):
    settings = TofuData(path=str(small), forget="forget05", authors=3, forget_authors=1)
    write(small, "holdout10", [row(number) for number in range(900, 908)])
    assert "holdout" not in load_tofu(settings).parts["test"].sets
    write(small, "holdout05", [row(number) for number in range(900, 904)], array=True)
    benchmark = load_tofu(settings)
    held_out = [example for part in benchmark.parts.values() for example in part.sets["holdout"]]
    assert sorted(example.prompt for example in held_out) == [
        f"Question {number}?" for number in range(900, 904)
    ]
    assert {example.id for example in held_out} == {f"holdout/{number}" for number in range(4)}
    assert not set(held_out) & {*benchmark.target_text, *benchmark.retrained_text}


def test_evaluation_items_can_be_limited(small):
    benchmark = load_tofu(TofuData(path=str(small), authors=3, forget_authors=1, max_evaluation_items=5))
    counts = [len(part.sets["forget"]) for part in benchmark.parts.values()]
    assert sum(counts) == 5


def test_local_folder_without_the_full_split_names_the_file(tmp_path):
    with pytest.raises(UserError, match=r"full\.json"):
        load_tofu(TofuData(path=str(tmp_path)))


def test_malformed_file_is_a_user_error(small):
    (small / "full.json").write_text('{"question": "a"\n{nonsense')
    with pytest.raises(UserError, match="cannot be read"):
        load_tofu(TofuData(path=str(small), authors=3, forget_authors=1))


def test_other_columns_are_a_user_error(small):
    write(small, "full", [{"prompt": "a", "answer": "b"}])
    with pytest.raises(UserError, match="no column question"):
        load_tofu(TofuData(path=str(small), authors=3, forget_authors=1))


def test_too_few_rows_are_a_user_error(small):
    write(small, "full", [row(number) for number in range(20)])
    with pytest.raises(UserError, match="too few rows"):
        load_tofu(TofuData(path=str(small), authors=3, forget_authors=1))


@needs_tofu
@pytest.mark.parametrize(("split", "rows"), [("forget01", 40), ("forget10", 400)])
def test_published_split_equals_the_published_files(split, rows):
    benchmark = load_benchmark(TofuData(path=str(TOFU), forget=split))
    published = [json.loads(line) for line in (TOFU / f"{split}.json").read_text().splitlines()]
    assert [(item.prompt, item.response) for item in benchmark.forget] == [
        (item["question"], item["answer"]) for item in published
    ]
    assert (len(benchmark.forget), len(benchmark.retain)) == (rows, 4000 - rows)
    assert all(item.paraphrases and len(item.perturbed) == 5 for item in benchmark.forget)
    sizes = {
        name: sum(len(part.sets[name]) for part in benchmark.parts.values())
        for name in benchmark.parts["test"].sets
    }
    assert sizes == {
        "forget": rows,
        "retain": 400 + (400 - rows),
        "real_authors": 100,
        "world_facts": 117,
        "holdout": rows,
    }


def test_gated_data_set_says_how_to_be_let_in(monkeypatch):
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    requested = {}

    def refuse(path, **more):
        requested.update(more)
        raise DatasetNotFoundError(
            f"Dataset '{path}' is a gated dataset on the Hub. You must be authenticated to access it."
        )

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(
        UserError,
        match=(
            r"org/TOFU:full: data.path: .*Accept the licence at https://huggingface.co/datasets/org/TOFU"
            r" and set"
        ),
    ):
        load_tofu(TofuData(path="org/TOFU", revision="v1"))
    assert requested["revision"] == "v1"
