import re

import pytest
import yaml

from search_spaces.catalogue.metric_catalogue import METRICS
from search_spaces.catalogue.reference_tables import (
    FOLDER,
    INTRODUCTIONS,
    metric_table,
    outdated_pages,
    reference_pages,
    settings_table,
    write_pages,
)
from search_spaces.loading.loader import load_sweep, packaged_sweeps
from search_spaces.settings.space import KINDS, trial_keys
from tests.support.places import ROOT

README = (ROOT / "search_spaces" / "README.md").read_text()


def test_reference_pages_are_as_the_classes_are_now():
    # To write the pages again: python -m search_spaces.catalogue.reference_tables
    assert outdated_pages(FOLDER) == []


@pytest.mark.parametrize("name", INTRODUCTIONS)
def test_row_too_many_or_too_few_anywhere_in_a_page_is_seen(tmp_path, name):
    """Leftover rows behind a table once passed, because the test only searched for the table in the file."""
    write_pages(tmp_path)
    assert outdated_pages(tmp_path) == []
    rows = (tmp_path / name).read_text().splitlines(keepends=True)
    for wrong in ([*rows, rows[-1]], rows[:-1], [rows[-1], *rows], ["of a row that broke |\n", *rows]):
        (tmp_path / name).write_text("".join(wrong))
        assert outdated_pages(tmp_path) == [name]


@pytest.mark.parametrize("name", INTRODUCTIONS)
def test_page_says_first_how_it_is_made(name):
    assert "python -m search_spaces.catalogue.reference_tables" in reference_pages()[name].splitlines()[0]


@pytest.mark.parametrize("name", INTRODUCTIONS)
def test_every_row_of_a_page_has_as_many_cells_as_its_title(name):
    """A description of two lines once broke its row in two."""
    table = 0
    for line in reference_pages()[name].partition("# ")[2].splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line))
        table = cells if table == 0 or cells == 0 else table
        assert cells == table, line


def test_metric_page_names_every_metric():
    assert all(f"`{name}` " in metric_table() for name in METRICS)


def test_settings_table_has_every_trial_key_with_its_meaning():
    rows = settings_table().splitlines()
    for key in trial_keys():
        (row,) = [row for row in rows if row.startswith(f"| `trial.{key}` |")]
        assert re.fullmatch(r"\| [^|]+ \| [^|]+ \| [^|]* \| (?:[^|]|\\\|){8,} \|", row), row


def test_readme_names_every_packaged_sweep_and_every_kind_of_domain():
    assert all(f"`{name}`" in README for name in packaged_sweeps())
    assert all(f"`{{{kind}: [" in README for kind in KINDS)


def test_readme_example_is_a_valid_sweep(tmp_path):
    example = re.search(r"```yaml\n(name: mine.*?)```", README, re.DOTALL)
    path = tmp_path / "mine.yaml"
    path.write_text(example.group(1))
    assert load_sweep(path).name == yaml.safe_load(example.group(1))["name"]
