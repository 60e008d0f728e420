import json

import pytest

from search_spaces.settings.data_settings import ClosedWorldData, LocalFilesData
from search_spaces.user_errors import UserError
from trainables.benchmarks import registry
from trainables.benchmarks.registry import BENCHMARKS, load_benchmark
from trainables.data.examples import Example, make_benchmark


def write(path, pairs):
    path.write_text(
        "\n".join(json.dumps({"prompt": prompt, "response": response}) for prompt, response in pairs)
    )
    return str(path)


def test_registry_has_every_benchmark_of_the_settings():
    import typing

    from search_spaces.settings.data_settings import DataSettings

    union = typing.get_args(DataSettings)[0]
    assert set(BENCHMARKS) == {member.model_fields["benchmark"].default for member in typing.get_args(union)}


def test_benchmark_is_loaded_by_name():
    benchmark = load_benchmark(ClosedWorldData(people=4, forget_people=1))
    assert len(benchmark.forget) == 3


def test_overlap_of_forget_and_retain_is_refused_with_both_ids(tmp_path):
    forget = write(tmp_path / "f.jsonl", [("a", "b"), ("c", "d")])
    retain = write(tmp_path / "r.jsonl", [("x", "y"), ("c", "d")])
    with pytest.raises(UserError, match="Remove them from one of the two") as caught:
        load_benchmark(LocalFilesData(forget=forget, retain=retain))
    assert "forget:2 and retain:2" in str(caught.value)


def test_same_prompt_with_another_response_is_no_overlap(tmp_path):
    forget = write(tmp_path / "f.jsonl", [("a", "b")])
    retain = write(tmp_path / "r.jsonl", [("a", "c")])
    assert len(load_benchmark(LocalFilesData(forget=forget, retain=retain)).retain) == 1


@pytest.mark.parametrize("empty", ["forget", "retain"])
def test_empty_set_is_refused(monkeypatch, empty):
    sets = {"forget": [Example("f", "a", "b")], "retain": [Example("r", "c", "d")], empty: []}
    benchmark = make_benchmark(sets["forget"], sets["retain"], [], [], {})
    monkeypatch.setitem(registry.BENCHMARKS, "closed_world", lambda settings: benchmark)
    with pytest.raises(UserError, match=f"the {empty} set is empty"):
        load_benchmark(ClosedWorldData())
