import json

from orchestrator.tracking.tracked_datasets import dataset_inputs, describe_datasets
from search_spaces.settings.data_settings import ClosedWorldData, LocalFilesData, MuseData, TofuData, WmdpData
from trainables.data.examples import Example, make_benchmark, split_sets


def example(number, text="a"):
    return Example(f"id{number}", f"prompt {number}", text)


def benchmark(forget=(1, 2), retain=(3,), holdout=(4, 5, 6), text="a"):
    sets = {"holdout": [example(number) for number in holdout]}
    forgotten, retained = [example(number, text) for number in forget], [example(number) for number in retain]
    return make_benchmark(forgotten, retained, [], [], split_sets(sets, 0.5, None))


def test_sets_have_their_sizes_and_roles():
    described = describe_datasets(ClosedWorldData(), benchmark())
    assert [(info.role, info.name, info.examples) for info in described] == [
        ("forget", "closed_world-forget", 2),
        ("retain", "closed_world-retain", 1),
        ("holdout", "closed_world-holdout", 3),
    ]


def test_set_without_examples_is_left_out():
    assert [info.role for info in describe_datasets(ClosedWorldData(), benchmark(holdout=()))] == [
        "forget",
        "retain",
    ]


def test_single_holdout_example_in_both_parts_counts_once():
    assert describe_datasets(ClosedWorldData(), benchmark(holdout=(4,)))[-1].examples == 1


def test_digest_follows_the_contents():
    first, same, other = (
        describe_datasets(ClosedWorldData(), benchmark(text=text)) for text in ("a", "a", "b")
    )
    assert first == same
    assert [one.digest == two.digest for one, two in zip(first, other, strict=True)] == [False, True, True]
    assert len(first[0].digest) <= 36


def test_sources_are_in_the_shapes_of_their_types():
    files = LocalFilesData(forget="f.jsonl", retain="r.jsonl")
    tofu = TofuData(path="org/TOFU", revision="abc", forget="forget05")
    sources = {
        data.benchmark: describe_datasets(data, benchmark())[0]
        for data in (ClosedWorldData(seed=3), files, tofu)
    }
    assert {name: info.source_type for name, info in sources.items()} == {
        "closed_world": "code",
        "local_files": "local",
        "tofu": "hugging_face",
    }
    assert json.loads(sources["closed_world"].source)["tags"]["seed"] == "3"
    assert json.loads(sources["local_files"].source) == {"uri": "f.jsonl"}
    assert json.loads(sources["tofu"].source) == {"path": "org/TOFU", "revision": "abc", "split": "forget05"}


def test_sources_of_muse_and_wmdp_are_where_their_text_lies():
    muse, wmdp = MuseData(forget="sust_2"), WmdpData(forget_corpus="f.jsonl", retain_corpus="r.jsonl")
    forget, retain = describe_datasets(wmdp, benchmark(holdout=()))
    assert [(one.source_type, json.loads(one.source)) for one in (forget, retain)] == [
        ("local", {"uri": "f.jsonl"}),
        ("local", {"uri": "r.jsonl"}),
    ]
    assert json.loads(describe_datasets(muse, benchmark())[0].source) == {
        "path": "muse-bench/MUSE-News",
        "revision": None,
        "split": "sust_2",
    }


def test_password_of_a_source_is_not_sent():
    data = LocalFilesData(forget="https://me:hunter2@files.example/f.jsonl", retain="r.jsonl")
    assert "hunter2" not in describe_datasets(data, benchmark())[0].source


def test_inputs_tell_size_and_context_and_no_contents():
    inputs = dataset_inputs(describe_datasets(ClosedWorldData(), benchmark(text="a secret")))
    assert [(tag.key, tag.value) for one in inputs for tag in one.tags] == [
        ("mlflow.data.context", role) for role in ("forget", "retain", "holdout")
    ]
    assert json.loads(inputs[0].dataset.profile) == {"num_rows": 2}
    assert "secret" not in str([one.to_dictionary() for one in inputs])
