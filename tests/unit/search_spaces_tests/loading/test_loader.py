from pathlib import Path

import pytest
import yaml

from search_spaces.loading.loader import load_sweep, packaged_sweeps
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError
from tests.support.sweeps.sweep_files import SMALL
from tests.support.tiny_benchmarks import own_files


@pytest.mark.parametrize("name", packaged_sweeps())
def test_packaged_sweep_loads_and_its_resolved_form_is_read_back(name, tmp_path):
    sweep = load_sweep(Path(name), own_files(name, tmp_path))
    assert sweep.name == Path(name).stem
    assert SweepSettings.model_validate_json(sweep.model_dump_json()) == sweep


def test_packaged_local_files_needs_a_model_and_two_files(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for path in (
        model / "config.json",
        model / "model.safetensors",
        tmp_path / "f.jsonl",
        tmp_path / "r.jsonl",
    ):
        path.touch()
    overrides = [
        f"model.target={model}",
        f"data.forget={tmp_path / 'f.jsonl'}",
        f"data.retain={tmp_path / 'r.jsonl'}",
    ]
    assert load_sweep(Path("local_files"), overrides).model.target == str(model)
    with pytest.raises(
        UserError,
        match=r"(?s)data\.forget: no such file.*--set data\.forget=FILE.*model\.target: no such folder",
    ):
        load_sweep(Path("local_files"))


def test_quickstart_is_the_space_that_the_readme_promises():
    space = load_sweep(Path("quickstart")).space
    assert set(space["forget.method"].choices) == {"graddiff", "npo", "wga"}
    assert set(space["beliefs"].choices) == {"none", "token", "sequence"}
    searched = {"token_belief.top_k", "retain.weight", "optimizer.learning_rate"}
    searched |= {
        f"{belief}.{field}"
        for belief in ("token_belief", "sequence_belief")
        for field in ("weight", "temperature")
    }
    assert searched <= space.keys()


def test_load_finds_a_packaged_sweep_without_its_suffix():
    assert load_sweep(Path("quickstart")) == load_sweep(Path("quickstart.yaml"))


def test_load_prefers_a_file_that_exists(write, monkeypatch):
    monkeypatch.chdir(write(SMALL, "quickstart.yaml").parent)
    assert "optimizer.learning_rate" not in load_sweep(Path("quickstart.yaml")).space


def test_load_names_the_sweep_by_option_then_file_content_then_file_name(write):
    assert load_sweep(write(SMALL)).name == "mine"
    named = write({**SMALL, "name": "own"})
    assert load_sweep(named).name == "own"
    assert load_sweep(named, name="other").name == "other"


def test_load_fills_in_the_objectives_of_the_benchmark(write):
    objectives = load_sweep(write(SMALL)).objectives
    assert {name: (objective.direction, objective.reference) for name, objective in objectives.items()} == {
        "forget_true_mass": ("minimize", 1.0),
        "utility": ("maximize", 0.0),
    }


def test_load_reads_exponents_without_a_dot_as_numbers(write):
    text = (
        yaml.safe_dump(SMALL)
        + "trial: {optimizer: {learning_rate: 1e-5}}\nsearch: {enqueue: [{retain.weight: 1e0}]}\n"
    )
    sweep = load_sweep(write(text))
    assert sweep.trial.optimizer.learning_rate == 1e-5
    assert sweep.search.enqueue == ({"retain.weight": 1.0},)


def test_load_makes_local_paths_absolute(write, tofu, monkeypatch):
    monkeypatch.chdir(tofu.parent)
    sweep = load_sweep(write({"model": {"base": "scratch"}, "data": {"benchmark": "tofu", "path": "tofu"}}))
    assert sweep.data.path == str(tofu)
    assert sweep.model.base == "scratch"


def test_override_sets_nested_keys_as_yaml(write):
    sweep = load_sweep(
        write(SMALL),
        [
            "trial.forget.npo.beta=0.5",
            "search.trials=3",
            "space.retain.weight={uniform: [1, 2]}",
            "trial.steps=null",
        ],
    )
    assert (sweep.search.trials, sweep.space["retain.weight"].kind, sweep.trial.steps) == (3, "uniform", None)
    assert sweep.trial.forget.npo.beta == 0.5


def test_override_that_narrows_a_choice_takes_along_what_hangs_on_it(write):
    assert "forget.npo.beta" not in load_sweep(write(SMALL), ["space.forget.method={choice: [wga]}"]).space
    pinned = load_sweep(write(SMALL), ["space.forget.method=null", "trial.forget.method=wga"])
    assert list(pinned.space) == ["retain.weight"]


def test_missing_file_suggests_a_near_one(write):
    path = write(SMALL)
    with pytest.raises(UserError, match=rf'no such sweep file\. Did you mean "{path}"'):
        load_sweep(path.with_name("mien.yaml"))
    with pytest.raises(UserError, match=r'Did you mean "quickstart\.yaml"'):
        load_sweep(Path("quikstart"))


def test_a_folder_is_no_sweep_file(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        load_sweep(tmp_path)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("model: {base: scratch}\ndata: 1\nmodel: 2\n", r"mine\.yaml:3: .*the key model occurs twice"),
        ("a:\n  b: 1\n c: 2\n", r"mine\.yaml:3: not readable as YAML"),
        ("", r"this one is empty\. Allowed: keys such as model"),
        ("- 1\n", "this one is a list"),
        ("a: !!python/object:os.system 1\n", "not readable as YAML"),
    ],
)
def test_malformed_yaml_is_refused_with_its_line(write, text, remedy):
    with pytest.raises(UserError, match=remedy):
        load_sweep(write(text))


def test_text_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: caf\xe9\n")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        load_sweep(path)
