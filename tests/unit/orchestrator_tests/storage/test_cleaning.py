import pytest

from orchestrator.storage.cleaning import clean_storage, size_mib
from orchestrator.storage.sweep_folder import SweepFolder, sweep_names
from search_spaces.user_errors import UserError
from tests.support.sweeps.sweep_on_disk import add_baselines, small_sweep


@pytest.fixture
def root(tmp_path):
    """Two sweeps, the models of the first, and models that neither uses."""
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


def clean(root, sweep=None, *, remove=True):
    """Returns: paths relative to the storage root, with sizes in MiB."""
    found = clean_storage(root, sweep, remove=remove)
    return {str(item.path.relative_to(root)): item.mib for item in found}


def files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.name != "driver.lock")


def test_clean_finds_what_would_be_removed_and_changes_nothing(root):
    before = files(root)
    assert clean(root, remove=False)["models/target-old"] == 1.0
    assert files(root) == before


def test_clean_removes_scratch_files_and_models_that_no_sweep_uses(root):
    before = set(files(root))
    unused = {"small/ray", "models/target-old", "models/measured-original-old.json", "models/initial-0123"}
    assert clean(root).keys() == unused
    assert before - set(files(root)) == unused | {"small/ray/lane0", "models/target-old/model.safetensors"}
    assert sweep_names(root) == ["other", "small"]
    assert clean(root) == {}


def test_clean_removes_one_sweep_whole_and_nothing_else(root):
    models = files(root / "models")
    assert clean(root, "small", remove=False).keys() == clean(root, "small").keys() == {"small"}
    assert sweep_names(root) == ["other"]
    assert not (root / "small").exists()
    assert files(root / "models") == models


def test_models_of_a_removed_sweep_are_unused(root):
    clean(root, "small")
    clean(root)
    assert files(root / "models") == []


def test_clean_of_an_unknown_sweep_lists_the_sweeps_that_exist(root):
    with pytest.raises(UserError, match="Allowed: other, small"):
        clean(root, "smal")


@pytest.mark.parametrize("sweep", [None, "small"])
def test_clean_changes_nothing_while_a_driver_runs(root, sweep):
    before = files(root)
    running = pytest.raises(UserError, match="another driver is running sweep 'small'")
    with SweepFolder(root, "small").locked(), running:
        clean(root, sweep)
    assert files(root) == before


def test_clean_of_one_sweep_does_not_mind_a_driver_of_another(root):
    with SweepFolder(root, "other").locked():
        clean(root, "small")
    assert sweep_names(root) == ["other"]


def test_clean_of_an_empty_storage_folder_has_nothing_to_do(tmp_path):
    assert clean(tmp_path / "missing") == {}


def test_size_counts_files_at_any_depth(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "one").write_bytes(b"0" * 1024**2)
    (tmp_path / "a" / "two").write_bytes(b"0" * 512 * 1024)
    assert size_mib(tmp_path) == size_mib(tmp_path / "a") == 1.5
    assert size_mib(tmp_path / "a" / "two") == 0.5
