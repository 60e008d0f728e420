import json
import os

import pytest
import torch

from trainables.training import checkpoint_files
from trainables.training.checkpoint_files import (
    SHARED,
    TornCheckpointError,
    partial_folder,
    read_rank,
    read_shared,
    remove_partials,
    seal,
    step_folder,
    whole_steps,
    write_rank,
)

FLAT = torch.arange(8.0)
TENSORS = {
    "0/weights": FLAT[2:6],
    "0/step": torch.tensor(3.0),
    "random": torch.tensor([1, 2], dtype=torch.uint8),
}


def write(home, step, writer="a", ranks=2):
    partial = partial_folder(home, step, writer)
    digests = [write_rank(partial, rank, TENSORS) for rank in range(ranks)]
    seal(partial, home, step, digests, {"key": {"workers": ranks}})
    return digests


def files(home):
    return sorted(str(path.relative_to(home)) for path in home.rglob("*"))


def test_what_was_written_is_read_back_bit_for_bit(tmp_path):
    digests = write(tmp_path, 3)
    assert whole_steps(tmp_path) == [3]
    assert read_shared(step_folder(tmp_path, 3)) == {"digests": digests, "key": {"workers": 2}}
    read = read_rank(step_folder(tmp_path, 3), 1, digests[1])
    assert read.keys() == TENSORS.keys()
    assert all(
        torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in TENSORS.items()
    )


def test_newer_checkpoint_takes_the_place_of_everything_else(tmp_path):
    write(tmp_path, 3)
    write_rank(partial_folder(tmp_path, 5, "dead"), 0, TENSORS)
    write(tmp_path, 6)
    assert files(tmp_path) == ["step6", "step6/rank0.pt", "step6/rank1.pt", f"step6/{SHARED}"]


def test_checkpoint_before_goes_only_when_the_next_one_has_its_name(tmp_path, monkeypatch):
    seen = []
    write(tmp_path, 3)
    monkeypatch.setattr(
        checkpoint_files.shutil, "rmtree", lambda path, **_: seen.append((path.name, whole_steps(tmp_path)))
    )
    write(tmp_path, 6)
    assert seen == [("step3", [6, 3])]


def test_everything_is_on_the_disk_before_the_name_is_given(tmp_path, monkeypatch):
    order = []
    fsync, rename = os.fsync, checkpoint_files.Path.rename

    def watched(descriptor):
        order.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))  # noqa: PTH115, PTH119
        fsync(descriptor)

    def renamed(path, target):
        order.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", watched)
    monkeypatch.setattr(checkpoint_files.Path, "rename", renamed)
    write(tmp_path, 3)
    renaming = order.index("rename")
    assert {"rank0.pt", "rank1.pt", SHARED} <= set(order[: renaming - 1])
    assert order[renaming - 1 :] == ["step3.a.partial", "rename", tmp_path.name]


@pytest.mark.parametrize("cut", ["rank", "shared", "rename"])
def test_death_in_the_middle_of_writing_leaves_the_checkpoint_before_it(tmp_path, monkeypatch, cut):
    digests = write(tmp_path, 3)
    partial = partial_folder(tmp_path, 6, "b")

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        targets = {
            "rank": (checkpoint_files.torch, "save"),
            "shared": (checkpoint_files.json, "dump"),
            "rename": (checkpoint_files.Path, "rename"),
        }
        target = targets[cut]
        patch.setattr(*target, die)
        seal(partial, tmp_path, 6, [write_rank(partial, 0, TENSORS)], {})
    assert whole_steps(tmp_path) == [3]
    assert torch.equal(read_rank(step_folder(tmp_path, 3), 0, digests[0])["0/weights"], TENSORS["0/weights"])
    remove_partials(tmp_path)
    assert not any("partial" in name for name in files(tmp_path))


def tear(path, how):
    body = path.read_bytes()
    match how:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(body[: len(body) // 2])
        case "zeros":  # what a file system may leave after a power cut
            path.write_bytes(body[: len(body) // 2] + bytes(len(body) - len(body) // 2))


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "zeros"])
def test_torn_file_of_a_rank_is_recognised_and_the_other_ranks_is_not_blamed(tmp_path, how):
    digests = write(tmp_path, 3)
    tear(step_folder(tmp_path, 3) / "rank1.pt", how)
    with pytest.raises(
        TornCheckpointError, match=r"rank1.pt (cannot be read|is not the one that was written)"
    ):
        read_rank(step_folder(tmp_path, 3), 1, digests[1])
    assert read_rank(step_folder(tmp_path, 3), 0, digests[0]).keys() == TENSORS.keys()


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "zeros"])
def test_torn_shared_file_is_recognised(tmp_path, how):
    write(tmp_path, 3)
    tear(step_folder(tmp_path, 3) / SHARED, how)
    with pytest.raises(TornCheckpointError, match=SHARED):
        read_shared(step_folder(tmp_path, 3))


@pytest.mark.parametrize("body", [[], {}, {"digests": None}], ids=json.dumps)
def test_shared_file_of_something_else_is_recognised(tmp_path, body):
    write(tmp_path, 3)
    (step_folder(tmp_path, 3) / SHARED).write_text(json.dumps(body))
    with pytest.raises(TornCheckpointError, match="holds something else"):
        read_shared(step_folder(tmp_path, 3))


def test_two_groups_that_run_the_same_trial_do_not_write_into_one_file(tmp_path):
    ours, theirs = partial_folder(tmp_path, 3, "a"), partial_folder(tmp_path, 3, "b")
    digests = [write_rank(ours, 0, TENSORS)]
    write_rank(theirs, 0, {"0/weights": torch.zeros(4)})
    seal(ours, tmp_path, 3, digests, {})
    assert read_rank(step_folder(tmp_path, 3), 0, digests[0]).keys() == TENSORS.keys()
    with pytest.raises(OSError):
        seal(theirs, tmp_path, 3, digests, {})
    assert whole_steps(tmp_path) == [3]


def test_names_that_are_no_checkpoints_are_not_taken_for_some(tmp_path):
    assert whole_steps(tmp_path / "missing") == []
    for name in ("step3.a.partial", "stepx", "step", "other"):
        (tmp_path / name).mkdir()
    assert whole_steps(tmp_path) == []
