from io import StringIO

import pytest
from rich.console import Console

from orchestrator.storage.cleaning import clean_storage, size_mib
from orchestrator.storage.sweep_folder import SweepFolder, sweep_names
from search_spaces.user_errors import UserError
from tests.support.sweeps.sweep_on_disk import add_baselines, small_sweep


@pytest.fixture
def root(tmp_path):
    """Two sweeps; models of the first, and models that nobody needs."""
    for name in ("small", "other"):
        SweepFolder(tmp_path, name).create(small_sweep(name=name), "small.yaml")
    folder = SweepFolder(tmp_path, "small")
    add_baselines(folder)
    (folder.tune / "lane0").mkdir(parents=True)
    (folder.models / "target-old").mkdir()
    (folder.models / "target-old" / "model.safetensors").write_bytes(b"0" * 1024**2)
    (folder.models / "measured-original-old.json").write_text("{}")
    (folder.models / "initial-0123").mkdir()
    return tmp_path


def clean(root, sweep=None, yes=False):
    out = StringIO()
    clean_storage(root, sweep, yes, Console(file=out))
    return out.getvalue()


def files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.name != "driver.lock")


def test_clean_says_what_would_go_and_touches_nothing(root):
    before = files(root)
    said = clean(root)
    assert f"would remove {root}/models/target-old (1.0 MiB)" in said
    assert said.endswith("give --yes to do it\n")
    assert files(root) == before


def test_clean_removes_scratch_files_and_models_that_no_sweep_uses(root):
    used = {
        f"models/{name}"
        for name in files(root / "models")
        if name.startswith(("original-0123", "retrained-0123", "measured"))
    }
    clean(root, yes=True)
    left = files(root)
    assert {name for name in left if name.startswith("models/")} == used - {
        "models/measured-original-old.json"
    }
    assert not any(name.startswith("small/ray") for name in left)
    assert sweep_names(root) == ["other", "small"]
    assert clean(root, yes=True) == "nothing to remove\n"


def test_clean_removes_one_sweep_whole_and_nothing_else(root):
    models = files(root / "models")
    assert "give --yes" in clean(root, "small")
    assert f"removing {root}/small" in clean(root, "small", yes=True)
    assert sweep_names(root) == ["other"]
    assert not (root / "small").exists()
    assert files(root / "models") == models


def test_models_of_a_removed_sweep_are_unused(root):
    clean(root, "small", yes=True)
    clean(root, yes=True)
    assert files(root / "models") == []


def test_clean_of_an_unknown_sweep_names_those_there_are(root):
    with pytest.raises(UserError, match="Allowed: other, small"):
        clean(root, "smal", yes=True)


@pytest.mark.parametrize("sweep", [None, "small"])
def test_clean_touches_nothing_while_a_driver_runs(root, sweep):
    before = files(root)
    with (
        SweepFolder(root, "small").locked(),
        pytest.raises(UserError, match="another driver is running sweep 'small'"),
    ):
        clean(root, sweep, yes=True)
    assert files(root) == before


def test_clean_of_one_sweep_does_not_mind_a_driver_of_another(root):
    with SweepFolder(root, "other").locked():
        clean(root, "small", yes=True)
    assert sweep_names(root) == ["other"]


def test_clean_of_an_empty_storage_folder_has_nothing_to_do(tmp_path):
    assert clean(tmp_path / "missing", yes=True) == "nothing to remove\n"


def test_size_counts_files_at_any_depth(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "one").write_bytes(b"0" * 1024**2)
    (tmp_path / "a" / "two").write_bytes(b"0" * 512 * 1024)
    assert size_mib(tmp_path) == size_mib(tmp_path / "a") == 1.5
    assert size_mib(tmp_path / "a" / "two") == 0.5
