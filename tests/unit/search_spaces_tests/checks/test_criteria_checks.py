from pathlib import Path

import pytest
import yaml

from search_spaces.loading.loader import load_sweep
from search_spaces.user_errors import UserError

SMALL = {
    "model": {"base": "scratch"},
    "data": {"benchmark": "closed_world"},
    "space": {"forget.method": {"choice": ["npo", "wga"]}, "retain.weight": {"log_uniform": [0.5, 5.0]}},
}


@pytest.fixture
def load(tmp_path):
    """A small sweep with some blocks replaced."""

    def loaded(**blocks):
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({**SMALL, **blocks}))
        return load_sweep(path)

    return loaded


@pytest.fixture
def message(load):
    """The expected error message."""

    def of(**blocks):
        with pytest.raises(UserError) as caught:
            load(**blocks)
        return str(caught.value)

    return of


@pytest.mark.parametrize(
    ("recipes", "blocks", "remedy"),
    [
        (
            ["nop"],
            {},
            (
                'search.recipes[0]: no such recipe (given: "nop"). Did you mean "npo"? Allowed: ga, graddiff,'
                " npo, simnpo, wga,"
            ),
        ),
        (
            ["npo", "graddiff"],
            {},
            (
                'search.recipes[1]: forget.method is "graddiff" in this recipe, and it is searched one of'
                ' "npo", "wga" (given: "graddiff"). Widen space.forget.method, or remove it.'
            ),
        ),
        (
            ["bs_t"],
            {},
            (
                'beliefs is "token" in this recipe, and trial.beliefs is "none" (given: "bs_t"). Set'
                " trial.beliefs, or remove it."
            ),
        ),
        # Searched, but not where the recipe is: then the trial's own value is what it would get.
        (
            ["wga"],
            {
                "trial": {"forget": {"wga": {"alpha": 2.0}}},
                "space": {
                    **SMALL["space"],
                    "forget.wga.alpha": {"uniform": [0.5, 2.0], "when": {"forget.method": "npo"}},
                },
            },
            "forget.wga.alpha is 1.0 in this recipe, and trial.forget.wga.alpha is 2.0",
        ),
    ],
)
def test_bad_recipe_is_refused_with_its_remedy(message, recipes, blocks, remedy):
    assert remedy in message(search={"recipes": recipes}, **blocks)


def test_recipes_that_fit_the_space_are_taken(load):
    assert load(search={"recipes": ["npo", "wga"]}).search.recipes == ("npo", "wga")


def test_packaged_tofu_sweep_can_start_from_the_published_settings():
    assert load_sweep(Path("tofu_forget10_llama32_1b"), ["search.recipes=[npo, bs_t, bs_s]"]).search.recipes


@pytest.mark.parametrize("block", ["constraints", "floors"])
@pytest.mark.parametrize(
    ("limits", "remedy"),
    [
        (
            {"utilty": {"at_least": 0.5}},
            'utilty: no such metric. Did you mean "utility"? Allowed: forget_canonical_mass,',
        ),
        (
            {"mem": {"at_least": 0.5}},
            "mem: this sweep cannot give this metric: it belongs to local_files, muse, tofu and wmdp",
        ),
        ({"utility": {}}, "utility: limits nothing. Give at_least, at_most or both."),
        (
            {"utility": {"at_least": 1.5}},
            "utility.at_least: no trial can reach this (given: 1.5). Allowed: up to 1.",
        ),
        (
            {"utility": {"at_most": -0.5}},
            "utility.at_most: no trial can reach this (given: -0.5). Allowed: from 0.",
        ),
        ({"utility": {"at_least": 0.5, "at_most": 0.4}}, "at_least (0.5) must not be above at_most (0.4)"),
    ],
)
def test_bad_limit_is_refused_with_its_remedy(message, block, limits, remedy):
    blocks = (
        {"constraints": limits}
        if block == "constraints"
        else {"early_stopping": {"floors": limits}, "trial": {"rungs": 4}}
    )
    assert remedy in message(**blocks)


def test_limit_of_an_objective_that_nothing_can_keep_to_is_refused(message):
    objectives = {
        "forget_true_mass": {"direction": "minimize", "reference": 1.0},
        "utility": {"direction": "maximize", "reference": 0.0, "at_least": 1.5},
    }
    assert "objectives.utility.at_least: no trial can reach this" in message(objectives=objectives)


@pytest.mark.parametrize(
    ("blocks", "remedy"),
    [
        (
            {"early_stopping": {}},
            (
                "early_stopping: no trial can be stopped early, because the only rung is the last one. "
                "Set trial.rungs to 2 or more, or remove early_stopping."
            ),
        ),
        (
            {"early_stopping": {"grace_rungs": 4}, "trial": {"rungs": 4}},
            (
                "early_stopping.grace_rungs: must be below the number of rungs (trial.rungs is 4): no trial"
                " is stopped at the last one (given: 4). Allowed: 1 to 3."
            ),
        ),
        ({"early_stopping": {"grace_rungs": 3}, "space": {"rungs": {"int": [1, 3]}}}, "(space.rungs is 3)"),
        ({"early_stopping": {"grace_rungs": 2}, "space": {"rungs": {"choice": [1, 2]}}}, "Allowed: 1 to 1."),
    ],
)
def test_early_stopping_without_a_rung_to_stop_at_is_refused(message, blocks, remedy):
    assert remedy in message(**blocks)


def test_early_stopping_goes_with_searched_rungs_and_with_the_last_rung_selected(load):
    blocks = {
        "early_stopping": {"grace_rungs": 2},
        "search": {"select": "last"},
        "space": {"rungs": {"int": [1, 4]}},
    }
    assert load(**blocks).early_stopping.grace_rungs == 2


@pytest.mark.parametrize(
    ("objective", "remedy"),
    [
        (
            {"reference": 1.0, "clip": [0.0, 0.9]},
            "objectives.forget_true_mass.reference: is outside clip (given: 1.0). Allowed: from 0 to 0.9.",
        ),
        (
            {"reference": 0.1, "clip": [0.1, 0.9]},
            (
                "no trial can be better than this, so every hypervolume is 0 (given: 0.1). The worst value is"
                " 0.9."
            ),
        ),
        ({"reference": 1.0, "clip": [0.9, 0.1]}, "clip ([0.9, 0.1]) must name the lower bound first"),
        ({"reference": 1.0, "transform": "log"}, "a log transform needs a clip above 0"),
        (
            {"reference": 1.0, "transform": "log", "clip": [0.0, 1.0]},
            "a log transform needs a reference point, and a clip, above 0",
        ),
    ],
)
def test_scale_that_does_not_fit_its_reference_is_refused(message, objective, remedy):
    objectives = {
        "forget_true_mass": {"direction": "minimize", **objective},
        "utility": {"direction": "maximize", "reference": 0.0},
    }
    assert remedy in message(objectives=objectives)


def test_a_sweep_that_would_learn_from_itself_is_refused(message):
    text = message(name="mine", search={"warm_start": ["mine"]})
    assert 'search.warm_start: a sweep cannot learn from itself (given: "mine"). Give another --name.' in text


def test_folders_to_learn_from_become_absolute_and_names_stay(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = load(search={"warm_start": ["./runs/pilot", "last_week", "mlflow:older"]})
    assert sweep.search.warm_start == (str(tmp_path / "runs/pilot"), "last_week", "mlflow:older")
