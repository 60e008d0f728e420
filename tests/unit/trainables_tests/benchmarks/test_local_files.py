import json

import pytest

from search_spaces.settings.data_settings import LocalFilesData
from search_spaces.user_errors import UserError
from trainables.benchmarks.local_files import load_local_files


def rows(name, count):
    return [{"prompt": f"{name} {number}?", "response": f"Answer {number}."} for number in range(count)]


def write(path, items):
    path.write_text("\n".join(json.dumps(item) for item in items) + "\n")
    return str(path)


@pytest.fixture
def files(tmp_path):
    return {
        "forget": write(tmp_path / "forget.jsonl", rows("forget", 4)),
        "retain": write(tmp_path / "retain.jsonl", rows("retain", 9)),
    }


def test_files_become_sets_and_training_text(files, tmp_path):
    holdout = write(tmp_path / "holdout.jsonl", rows("holdout", 2))
    benchmark = load_local_files(LocalFilesData(**files, holdout=holdout))
    assert (len(benchmark.forget), len(benchmark.retain)) == (4, 9)
    assert benchmark.target_text == benchmark.forget + benchmark.retain
    assert benchmark.retrained_text == benchmark.retain
    assert set(benchmark.parts["test"].sets) == {"forget", "retain", "holdout"}


@pytest.mark.parametrize(("share", "validation"), [(0.5, 2), (0.25, 1), (0.01, 1), (0.99, 3)])
def test_validation_share_is_kept_and_no_part_is_empty(files, share, validation):
    parts = load_local_files(LocalFilesData(**files, validation_share=share)).parts
    assert len(parts["validation"].sets["forget"]) == validation
    assert len(parts["test"].sets["forget"]) == 4 - validation


def test_paraphrases_are_kept_and_other_keys_are_left_to_their_owner(tmp_path, files):
    item = {
        "prompt": "Who?",
        "response": "Kalo.",
        "paraphrases": ["It is Kalo.", "Kalo it is."],
        "ticket": 17,
    }
    benchmark = load_local_files(
        LocalFilesData(forget=write(tmp_path / "f.jsonl", [item]), retain=files["retain"])
    )
    assert benchmark.forget[0].paraphrases == ("It is Kalo.", "Kalo it is.")


def test_one_item_is_in_both_parts(tmp_path, files):
    benchmark = load_local_files(
        LocalFilesData(forget=write(tmp_path / "f.jsonl", rows("one", 1)), retain=files["retain"])
    )
    assert [len(part.sets["forget"]) for part in benchmark.parts.values()] == [1, 1]


def test_blank_lines_byte_order_mark_and_windows_line_ends_are_read(tmp_path, files):
    path = tmp_path / "f.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + b"\r\n\r\n".join(json.dumps(item).encode() for item in rows("f", 3)) + b"\r\n"
    )
    benchmark = load_local_files(LocalFilesData(forget=str(path), retain=files["retain"]))
    assert [example.id for example in benchmark.forget] == ["forget:1", "forget:3", "forget:5"]


def test_line_separators_inside_a_text_do_not_cut_it(tmp_path, files):
    path = tmp_path / "f.jsonl"
    path.write_text(
        json.dumps({"prompt": "a\u2028b", "response": "c\x85d"}, ensure_ascii=False), encoding="utf-8"
    )
    assert (
        load_local_files(LocalFilesData(forget=str(path), retain=files["retain"])).forget[0].prompt
        == "a\u2028b"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a", "response"', "not JSON"),
        ('["a", "b"]', "not a JSON object"),
        ('{"prompt": "a", "answer": "b"}', "no key `response`"),
        ('{"prompt": "a", "response": 3}', "not a text"),
        ('{"prompt": "  ", "response": "b"}', "not a text"),
        ('{"prompt": "a", "response": "b", "paraphrases": "c"}', "not a list"),
        ('{"prompt": "a", "response": "b", "paraphrases": [""]}', r"paraphrases\[0\]"),
    ],
)
def test_malformed_line_is_named_with_its_number(tmp_path, files, line, message):
    path = tmp_path / "broken.jsonl"
    path.write_text(json.dumps(rows("f", 1)[0]) + "\n\n" + line + "\n")
    with pytest.raises(UserError, match=message) as caught:
        load_local_files(LocalFilesData(forget=str(path), retain=files["retain"]))
    assert "broken.jsonl, line 3" in str(caught.value)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_empty_file_is_refused(tmp_path, files, content):
    path = tmp_path / "empty.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match="no examples"):
        load_local_files(LocalFilesData(forget=str(path), retain=files["retain"]))


def test_missing_file_is_refused_with_its_key(files):
    with pytest.raises(UserError, match=r"data\.retain"):
        load_local_files(LocalFilesData(forget=files["forget"], retain="nowhere.jsonl"))


def test_file_of_another_encoding_is_refused(tmp_path, files):
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"prompt": "é", "response": "b"}'.encode("latin-1"))
    with pytest.raises(UserError, match="UTF-8"):
        load_local_files(LocalFilesData(forget=str(path), retain=files["retain"]))
