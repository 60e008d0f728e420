"""What a trial trains: named parameters, or adapters, whose merged weights are the plain model's."""

import copy

import pytest
import torch

from search_spaces.settings.trial_settings import LoraSettings, TrialSettings
from search_spaces.user_errors import UserError
from tests.support.training.plain_engine import random_llama
from trainables.engine.trained_parameters import (
    choose_trained,
    fresh_adapter,
    is_adapter,
    merged,
    plain_name,
    set_scale,
)

IDS = torch.arange(1, 13).view(2, 6)


def adapted(trial, *, filled):
    """A model with adapters as `reset` leaves them, or with random numbers in both matrices."""
    model = random_llama()
    choose_trained(model, trial)
    set_scale(model.modules(), trial.lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_adapter(name):
                parameter.copy_(
                    torch.randn(parameter.shape) * 0.2
                    if filled
                    else fresh_adapter(name, parameter.shape, trial.seed)
                )
    return model


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def test_all_parameters_are_trained_by_default():
    model = random_llama()
    choose_trained(model, TrialSettings())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_patterns_choose_parameters_by_their_whole_names():
    model = random_llama()
    choose_trained(
        model, TrialSettings(trained=[r"model\.layers\.1\.mlp\.down_proj\.weight", r"lm_head\..*"])
    )
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained == ["model.layers.1.mlp.down_proj.weight", "lm_head.weight"]


def test_pattern_that_names_nothing_is_refused():
    with pytest.raises(UserError, match=r"no parameter of this model has such a name"):
        choose_trained(random_llama(), TrialSettings(trained=["down_proj"]))


def test_module_that_is_not_there_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match=r'Did you mean "q_proj"\?'):
        choose_trained(random_llama(), TrialSettings(lora=LoraSettings(rank=2, modules=["q_prj"])))


def test_only_adapters_are_trained_and_every_linear_layer_but_the_head_has_one():
    model = adapted(TrialSettings(lora=LoraSettings(rank=3)), filled=False)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if is_adapter(name)}
    assert len(trained) == 2 * 7 * 2
    assert model.get_output_embeddings() is model.lm_head and not any("lm_head" in name for name in trained)


def test_modules_choose_which_layers_have_adapters():
    model = adapted(TrialSettings(lora=LoraSettings(rank=3, modules=["q_proj", "down_proj"])), filled=False)
    assert {name.split(".")[4] for name, _ in model.named_parameters() if is_adapter(name)} == {
        "q_proj",
        "down_proj",
    }


def test_model_with_fresh_adapters_is_the_model_without():
    assert torch.equal(
        logits(adapted(TrialSettings(lora=LoraSettings(rank=3)), filled=False)), logits(random_llama())
    )


@pytest.mark.parametrize("alpha", [1.0, 16.0])
def test_merged_weights_in_the_plain_model_give_the_adapted_model(alpha):
    lora = LoraSettings(rank=3, alpha=alpha)
    model, plain = adapted(TrialSettings(lora=lora), filled=True), random_llama()
    parameters = dict(model.named_parameters())
    adapters = {name: parameter for name, parameter in parameters.items() if is_adapter(name)}
    weights = {
        plain_name(name): merged(plain_name(name), parameter, adapters, lora)
        for name, parameter in parameters.items()
        if not is_adapter(name)
    }
    before = logits(plain)
    missing = plain.load_state_dict(weights)
    assert not missing.missing_keys and not missing.unexpected_keys
    torch.testing.assert_close(logits(plain), logits(model), rtol=1e-5, atol=1e-5)
    assert (logits(plain) - before).abs().max() > 0.1


def test_merging_agrees_with_peft_itself():
    lora = LoraSettings(rank=3, alpha=5.0)
    model = adapted(TrialSettings(lora=lora), filled=True)
    layer = model.model.layers[0].self_attn.q_proj
    matrices = {
        f"x{name}": parameter.detach()
        for name, parameter in layer.named_parameters(prefix="")
        if is_adapter("." + name)
    }
    matrices = {name.replace("x", "x.", 1): matrix for name, matrix in matrices.items()}
    ours = merged("x.weight", layer.base_layer.weight, matrices, lora)
    copied = copy.deepcopy(layer)
    copied.merge()
    torch.testing.assert_close(ours, copied.base_layer.weight, rtol=1e-6, atol=1e-7)
    assert not torch.equal(ours, layer.base_layer.weight)


def test_fresh_matrices_depend_on_seed_and_name_alone():
    down, up = "layer.lora_A.default.weight", "layer.lora_B.default.weight"
    torch.manual_seed(1)
    first = fresh_adapter(down, (4, 16), seed=3)
    torch.manual_seed(2)
    assert torch.equal(first, fresh_adapter(down, (4, 16), seed=3))
    assert not torch.equal(first, fresh_adapter(down, (4, 16), seed=4))
    assert not torch.equal(first, fresh_adapter("other" + down, (4, 16), seed=3))
    assert first.abs().max() <= 1 / 4 and first.abs().max() > 0.2
    assert not fresh_adapter(up, (16, 4), seed=3).any()


def test_adapters_and_patterns_together_are_refused():
    with pytest.raises(ValueError, match="adapters are all that lora trains"):
        TrialSettings(trained=["a"], lora=LoraSettings(rank=1))


def test_pattern_must_be_a_regular_expression():
    with pytest.raises(ValueError, match="is not a regular expression"):
        TrialSettings(trained=["("])
