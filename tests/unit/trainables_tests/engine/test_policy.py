from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
)

from search_spaces.settings.model_settings import ModelSettings
from search_spaces.user_errors import UserError
from tests.support.training.plain_engine import answer_logits, random_examples, random_llama
from trainables.data.collate import collate
from trainables.engine.policy import Policy, check_plain_head, load_causal_lm

ITEMS = random_examples("item", [(3, 4), (1, 1), (5, 6)], seed=1)
SETTINGS = ModelSettings(target="unused")
SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.mark.parametrize("tied", [False, True])
def test_policy_adds_no_parameter_to_the_model(tied):
    model = random_llama(tied=tied)
    policy = Policy(model)
    assert policy.head.weight is model.get_output_embeddings().weight
    assert {id(parameter) for parameter in policy.parameters()} == {
        id(parameter) for parameter in model.parameters()
    }
    assert len(list(policy.parameters())) == len(list(model.parameters()))


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_answer_stats_match_one_unpadded_sequence_at_a_time(chunk):
    model = random_llama()
    batch = collate(ITEMS, pad_id=0)
    with torch.no_grad():
        logp, best = Policy(model)(lambda policy: policy.answer_stats(batch, chunk))
        dense = [answer_logits(model, item) for item in ITEMS]
    expected = torch.cat(
        [logits.log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1) for logits, targets in dense]
    )
    torch.testing.assert_close(logp, expected, rtol=1e-10, atol=1e-12)
    assert best.tolist() == torch.cat([logits.argmax(-1) for logits, _ in dense]).tolist()


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_answer_moments_match_one_unpadded_sequence_at_a_time(chunk):
    model = random_llama()
    policy, batch = Policy(model), collate(ITEMS, pad_id=0)
    with torch.no_grad():
        logp, best, mean, deviation = policy.answer_moments(batch, chunk)
        dense = torch.cat([answer_logits(model, item)[0] for item in ITEMS]).log_softmax(-1)
    assert all(
        torch.equal(*pair) for pair in zip((logp, best), policy.answer_stats(batch, chunk), strict=True)
    )
    expected = (dense.exp() * dense).sum(-1)
    torch.testing.assert_close(mean, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        deviation**2, (dense.exp() * dense**2).sum(-1) - expected**2, rtol=1e-8, atol=1e-10
    )


def test_answer_stats_do_not_depend_on_the_id_that_pads():
    policy = Policy(random_llama())
    with torch.no_grad():
        stats = [policy.answer_stats(collate(ITEMS, pad_id=pad, pad_to_multiple=8), 4)[0] for pad in (0, 7)]
    assert torch.equal(*stats)


def test_answer_stats_of_nothing_still_run_the_model():
    logp, best = Policy(random_llama()).answer_stats(collate([], pad_id=0), 4)
    assert logp.shape == best.shape == (0,)


def test_head_gives_float32_logits_without_a_request():
    model = random_llama().to(torch.bfloat16)
    hidden = torch.randn(2, 16, dtype=torch.bfloat16)
    logits = Policy(model).head(hidden, None)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, model.lm_head(hidden).float(), rtol=0, atol=0)


def test_model_without_a_linear_head_is_refused():
    model = random_llama()
    model.lm_head = torch.nn.Sequential(model.lm_head)
    with pytest.raises(UserError, match="plain lm_head"):
        Policy(model)


def scaled_head():
    return GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=4.0)).eval()


def capped_head():
    model = Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=30.0)).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(60)  # logits of a few nats, like a trained model's
    return model


@pytest.mark.parametrize("build", [scaled_head, capped_head])
def test_logits_changed_after_the_head_are_refused(build):
    torch.manual_seed(0)
    with pytest.raises(UserError, match="family with a plain head"):
        check_plain_head(build())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_plain_heads_are_accepted(tied, dtype):
    check_plain_head(random_llama(tied=tied).to(dtype))


def test_loaded_model_is_the_saved_one_in_the_precision_of_the_settings(tmp_path):
    random_llama().float().save_pretrained(tmp_path)
    model = load_causal_lm(str(tmp_path), SETTINGS)
    assert model.dtype == torch.float32
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert (
        load_causal_lm(str(tmp_path), SETTINGS.model_copy(update={"dtype": "bfloat16"})).dtype
        == torch.bfloat16
    )


def test_folder_without_a_model_is_refused_with_what_to_give(tmp_path):
    with pytest.raises(UserError, match=r"a folder with config\.json and safetensors weights"):
        load_causal_lm(str(tmp_path), SETTINGS)


def test_loading_refuses_logits_changed_after_the_head(tmp_path):
    torch.manual_seed(0)
    scaled_head().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="scales or caps its logits"):
        load_causal_lm(str(tmp_path), SETTINGS)
