"""Small sweep files, and the error messages of wrong ones."""

import pytest
import yaml

from search_spaces.loading.loader import load_sweep
from search_spaces.user_errors import UserError
from tests.support.sweeps.sweep_files import SMALL

TOFU_FILES = (
    "full",
    "forget10",
    "forget10_perturbed",
    "retain_perturbed",
    "real_authors_perturbed",
    "world_facts_perturbed",
)


@pytest.fixture
def write(tmp_path):
    def to_file(content, name="mine.yaml"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return to_file


@pytest.fixture
def message(write):
    """The error message of a small sweep with some blocks replaced, or of overrides on it."""

    def of(*overrides, **blocks):
        with pytest.raises(UserError) as caught:
            load_sweep(write({**SMALL, **blocks}), overrides)
        return str(caught.value)

    return of


@pytest.fixture
def tofu(tmp_path):
    folder = tmp_path / "tofu"
    folder.mkdir()
    for name in TOFU_FILES:
        (folder / f"{name}.json").touch()
    return folder
