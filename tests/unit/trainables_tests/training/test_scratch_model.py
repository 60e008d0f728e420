import pytest
import torch
from transformers import AutoTokenizer

from search_spaces.settings.data_settings import ClosedWorldData
from search_spaces.settings.model_settings import ScratchSettings
from search_spaces.user_errors import UserError
from trainables.benchmarks.closed_world import build_closed_world
from trainables.data.encoding import encode, encode_prompt, end_ids
from trainables.training.scratch_model import SPECIAL_TOKENS, build_scratch_model, small_init, train_tokenizer

SHAPE = ScratchSettings(hidden_size=16, intermediate_size=32, layers=1, heads=2)


@pytest.fixture(scope="module")
def world():
    return build_closed_world(ClosedWorldData(people=16, forget_people=2))


@pytest.fixture(scope="module")
def texts(world):
    return [text for example in world.target_text for text in (example.prompt, example.response)]


@pytest.fixture(scope="module")
def tokenizer(texts):
    return train_tokenizer(texts, 2048)


def test_tokenizer_starts_with_the_special_tokens(tokenizer):
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == list(SPECIAL_TOKENS)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    assert end_ids(tokenizer) == {1}


def test_tokenizer_does_not_depend_on_the_order_or_number_of_copies(tokenizer, texts):
    again = train_tokenizer([*reversed(texts), *texts[:50]], 2048)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert [encode(again, text, text) for text in texts[:200]] == [
        encode(tokenizer, text, text) for text in texts[:200]
    ]


def test_tokenizer_keeps_every_word_of_the_closed_world_whole(tokenizer, world):
    for part in world.parts.values():
        for question in part.questions:
            words = question.prompt.replace("?", " ?").replace(".", " .").replace("'s", " 's").split()
            assert len(encode_prompt(tokenizer, question.prompt)) == len(words) + 2
            assert all(
                len(encode(tokenizer, "", response)[0]) <= 10
                for row in question.responses
                for response in row
            )


def test_tokenizer_keeps_to_its_bound(texts):
    assert len(train_tokenizer(texts, 300)) == 300


def test_tokenizer_spells_text_it_never_saw(tokenizer):
    assert tokenizer.decode(tokenizer("naïve 東京 🎻\n")["input_ids"]) == "naïve 東京 🎻\n"


def test_tokenizer_refuses_a_bound_without_room_for_bytes(texts):
    with pytest.raises(UserError, match="at least 260"):
        train_tokenizer(texts, 259)


def test_tokenizer_comes_back_from_its_folder(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert encode(loaded, "Where was Kalo born?", "Born in Lima.") == encode(
        tokenizer, "Where was Kalo born?", "Born in Lima."
    )
    assert end_ids(loaded) == end_ids(tokenizer)


def test_model_depends_on_its_seed_alone():
    torch.manual_seed(1)
    first = build_scratch_model(SHAPE, 300, seed=0)
    expected = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), expected)
    second, other = build_scratch_model(SHAPE, 300, seed=0), build_scratch_model(SHAPE, 300, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    assert first.lm_head.weight.dtype == torch.float32


@pytest.mark.parametrize("tie", [False, True])
def test_model_ties_its_embeddings_when_set(tie):
    model = build_scratch_model(SHAPE.model_copy(update={"tie_embeddings": tie}), 300, seed=0)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tie
    assert model(input_ids=torch.tensor([[2, 5, 3]])).logits.shape == (1, 3, 300)


def test_model_folder_comes_back_as_it_was(tmp_path):
    from transformers import AutoModelForCausalLM

    model = build_scratch_model(SHAPE, 300, seed=0)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    assert (loaded.config.eos_token_id, loaded.config.pad_token_id) == (1, 0)


def test_initial_weights_narrow_as_the_model_widens():
    model = build_scratch_model(SHAPE.model_copy(update={"hidden_size": 64}), 2000, seed=0)
    assert float(model.lm_head.weight.detach().std()) == pytest.approx((2 / (5 * 64)) ** 0.5, rel=0.02)
    assert float(model.model.embed_tokens.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert small_init(1000) == pytest.approx(0.02)
