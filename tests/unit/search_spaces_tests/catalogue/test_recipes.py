import pytest

from search_spaces.catalogue.recipes import RECIPES, searched_part
from search_spaces.settings.space import Domain, apply
from search_spaces.settings.trial_settings import TrialSettings


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_a_trial_that_names_its_source(name):
    recipe = RECIPES[name]
    trial = apply(TrialSettings(), recipe.settings)
    assert trial.forget.method == {"bs_t": "npo", "bs_s": "npo"}.get(name, name)
    assert "arXiv" in recipe.source


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_leaves_out_what_depends_on_model_and_data(name):
    assert not any(
        key.startswith("optimizer.") or key in ("epochs", "steps", "seed") for key in RECIPES[name].settings
    )


def test_belief_recipes_are_npo_with_the_published_beliefs():
    bs_t, bs_s = (apply(TrialSettings(), RECIPES[name].settings) for name in ("bs_t", "bs_s"))
    assert (bs_t.token_belief.weight, bs_t.token_belief.top_k, bs_t.token_belief.temperature) == (
        0.2,
        20,
        1.0,
    )
    assert (
        bs_s.sequence_belief.weight,
        bs_s.sequence_belief.num_samples,
        bs_s.sequence_belief.temperature,
    ) == (0.5, 3, 1.0)
    assert bs_t.token_beliefs and not bs_t.sequence_beliefs and bs_s.token_beliefs and bs_s.sequence_beliefs
    assert bs_s.token_belief == bs_t.token_belief
    # The published form has no guard of the target.
    assert not bs_t.token_belief.guards


def test_searched_part_of_a_recipe_is_what_the_space_names():
    space = {
        "forget.method": Domain.model_validate({"choice": ["npo", "wga"]}),
        "epochs": Domain.model_validate({"int": [1, 5]}),
    }
    assert searched_part("npo", space) == {"forget.method": "npo"}
