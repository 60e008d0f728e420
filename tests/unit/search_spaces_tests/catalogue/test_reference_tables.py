import re

import yaml

from search_spaces.catalogue.metric_catalogue import METRICS
from search_spaces.catalogue.reference_tables import method_table, metric_table, settings_table
from search_spaces.loading.loader import load_sweep, packaged_sweeps
from search_spaces.settings.space import KINDS, trial_keys
from tests.support.places import ROOT

README = (ROOT / "search_spaces" / "README.md").read_text()


def test_readme_holds_the_settings_table_as_it_is_now():
    # Mend it with: python -c "from search_spaces.catalogue.reference_tables import settings_table;
    # print(settings_table())"
    assert settings_table() in README


def test_readme_holds_the_table_of_methods_as_it_is_now():
    # Mend it with: python -c "from search_spaces.catalogue.reference_tables import method_table;
    # print(method_table())"
    assert method_table() in README


def test_readme_holds_the_table_of_metrics_as_it_is_now():
    # Mend it with: python -c "from search_spaces.catalogue.reference_tables import metric_table;
    # print(metric_table())"
    assert metric_table() in README
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
