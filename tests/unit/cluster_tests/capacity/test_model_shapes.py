import json

import pytest

from cluster.capacity.model_shapes import KNOWN, scratch_shape, shape_from_config, shape_of
from search_spaces.settings.model_settings import ModelSettings, ScratchSettings
from search_spaces.user_errors import UserError

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 500,
}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("llama-3.2-1b", 1_235_814_400), ("llama-3.1-8b", 8_030_261_248), ("llama-3.1-70b", 70_553_706_496)],
)
def test_published_models_have_their_published_parameters(name, parameters):
    assert KNOWN[name].parameters == parameters


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("llama", {}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"tie_word_embeddings": True, "head_dim": 32}),
        ("mistral", {}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 16}),
    ],
)
def test_parameters_of_a_config_equal_those_of_the_model_itself(family, more):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = CONFIG | {"model_type": family, "tie_word_embeddings": False} | more
    settings = {key: value for key, value in config.items() if key != "model_type"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings))
    shape = shape_from_config(config, "a/config.json")
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert shape.largest_tensor == max(parameter.numel() for parameter in model.parameters())
    assert shape.tensors == {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def test_scratch_parameters_equal_those_of_the_model_itself():
    from trainables.training.scratch_model import build_scratch_model

    scratch = ScratchSettings(hidden_size=32, intermediate_size=64, layers=2, heads=2, vocabulary=300)
    model = build_scratch_model(scratch, 300, 0)
    assert scratch_shape(scratch).parameters == sum(parameter.numel() for parameter in model.parameters())


def test_shards_add_up_to_the_model_and_its_padding():
    shape = KNOWN["llama-3.1-8b"]
    assert shape.shard(1) == shape.parameters
    tensors = 3 + shape.layers * len(shape.layer_tensors)
    for workers in (2, 3, 7, 64):
        assert shape.parameters <= shape.shard(workers) * workers < shape.parameters + tensors * workers


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("open-unlearning/tofu_Llama-3.2-1B-Instruct_full", "Llama 3.2 1B"),
        ("meta-llama/Llama-3.1-8B", "Llama 3.1 8B"),
        ("meta-llama/Meta-Llama-3-70B-Instruct", "Llama 3.1 70B"),
    ],
)
def test_shape_is_known_by_the_hub_id(target, name):
    assert shape_of(ModelSettings(target=target)).name == name


def test_shape_is_read_from_a_folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert shape_of(ModelSettings(target=str(tmp_path))).hidden == 64
    assert shape_of(ModelSettings(target="org/other"), str(tmp_path / "config.json")).layers == 3


def test_unknown_hub_id_is_refused_with_what_to_give():
    with pytest.raises(UserError, match=r"--model-shape 1b, 8b or 70b") as caught:
        shape_of(ModelSettings(target="org/unknown"))
    assert (caught.value.key, caught.value.value) == ("model.target", "org/unknown")


def test_unknown_shape_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"1b, 8b, 70b"):
        shape_of(ModelSettings(base="scratch"), "3t")


def test_other_families_and_broken_configs_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"nearest known shape"):
        shape_from_config(CONFIG | {"model_type": "gemma2"}, "config.json")
    with pytest.raises(UserError, match=r"vocab_size"):
        shape_from_config({key: value for key, value in CONFIG.items() if key != "vocab_size"}, "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"not JSON"):
        shape_of(ModelSettings(target=str(tmp_path)))
