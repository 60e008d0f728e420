import json

import pytest

from trainables import durable_files
from trainables.durable_files import (
    new_folder,
    partial_path,
    rename_folder,
    replaced_file,
    write_json,
    write_text,
)


@pytest.fixture
def operations(monkeypatch, tmp_path):
    """Records what reaches the device, and when names change, in order."""
    found = []
    path, sync = durable_files.Path, durable_files.sync_file

    def record(name):
        original = getattr(path, name)

        def run(self, target):
            found.append((name, target.name))
            return original(self, target)

        monkeypatch.setattr(path, name, run)

    def synced(file):
        found.append(
            ("sync", file.name.partition(".partial")[0].partition(".json.")[0].partition(".txt.")[0])
        )
        sync(file)

    monkeypatch.setattr(durable_files, "sync_file", synced)
    record("rename")
    record("replace")
    return found


def test_file_is_on_the_device_before_it_has_its_name_and_the_name_after(tmp_path, operations):
    write_json(tmp_path / "a.json", {"x": 0.1 + 0.2})
    assert operations == [("sync", "a"), ("replace", "a.json"), ("sync", tmp_path.name)]
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 0.1 + 0.2}


def test_folder_is_on_the_device_whole_before_it_has_its_name(tmp_path, operations):
    partial = tmp_path / "model.partial"
    (partial / "inner").mkdir(parents=True)
    (partial / "inner" / "weights").write_text("1")
    (partial / "config").write_text("2")
    rename_folder(partial, tmp_path / "model")
    names = [name for _, name in operations]
    assert sorted(names[:4]) == ["config", "inner", "model", "weights"] and names[3] == "model"
    assert operations[4:] == [("rename", "model"), ("sync", tmp_path.name)]


def test_block_that_raises_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replaced_file(path) as partial:
        partial.write_text("new, but half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_block_that_raises_leaves_no_folder(tmp_path):
    with pytest.raises(RuntimeError), new_folder(tmp_path / "model") as partial:
        (partial / "weights").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_folder_that_another_writer_has_filled_stays(tmp_path):
    with pytest.raises(OSError, match="not empty"), new_folder(tmp_path / "model") as partial:
        (partial / "weights").write_text("mine")
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "weights").write_text("theirs")
    assert (tmp_path / "model" / "weights").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_missing_folders_are_made(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "x")
    with new_folder(tmp_path / "c" / "d") as partial:
        (partial / "e").write_text("y")
    assert (tmp_path / "a" / "b.txt").read_text() + (tmp_path / "c" / "d" / "e").read_text() == "xy"


def test_file_system_that_cannot_sync_folders_is_no_failure(tmp_path, monkeypatch):
    sync = durable_files.sync_file

    def refuse_folders(path):
        if path.is_dir():
            raise OSError("invalid argument")
        sync(path)

    monkeypatch.setattr(durable_files, "sync_file", refuse_folders)
    write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").read_text() == "x"


def test_two_writers_never_share_a_partial_name(tmp_path):
    names = {partial_path(tmp_path / "a.json") for _ in range(20)}
    assert len(names) == 20 and all(name.name.startswith("a.json.") for name in names)
