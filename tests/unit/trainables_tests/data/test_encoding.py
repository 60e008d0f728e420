import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from search_spaces.user_errors import UserError
from trainables.data.encoding import Encoded, encode, encode_prompt, end_ids, set_system_prompt
from trainables.training.scratch_model import train_tokenizer

TEXTS = ["Where was Kalo born?", "Born in Lima.", "Question: Answer:"]
LLAMA_LIKE = (
    "{% for m in messages %}<|user|>{{ m['role'] }} {{ date_string }} {{ m['content'] | trim"
    " }}<|assistant|>{% endfor %}{% if add_generation_prompt %}<|user|>assistant {{ date_string }} {%"
    " endif %}"
)
LINE_BREAK_AFTER_TURN = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}"
    "{% else %}<|assistant|>{{ m['content'] }}<|end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PROMPT_DIFFERS = (
    "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}{% if m['role'] == 'assistant' %}<|end|>{%"
    " endif %}{% endfor %}{% if add_generation_prompt %}now answer:{% endif %}"
)


@pytest.fixture
def tokenizer():
    return train_tokenizer(TEXTS, 400)


def answer_text(tokenizer, ids, prompt_length):
    return tokenizer.decode(ids[prompt_length:])


def test_encode_ends_the_answer_with_the_end_token(tokenizer):
    ids, prompt_length = encode(tokenizer, "Where was Kalo born?", "Born in Lima.")
    assert answer_text(tokenizer, ids, prompt_length) == "Born in Lima.<|end|>"
    assert tokenizer.decode(ids[:prompt_length]) == "<|user|>Where was Kalo born?<|assistant|>"


@pytest.mark.parametrize("template", [None, LLAMA_LIKE, LINE_BREAK_AFTER_TURN, PROMPT_DIFFERS, "scratch"])
@pytest.mark.parametrize("response", ["Born in Lima.", "", "ünïcode 東京"])
def test_encode_starts_with_the_prompt_that_generation_starts_from(tokenizer, template, response):
    if template != "scratch":
        tokenizer.chat_template = template
    ids, prompt_length = encode(tokenizer, "Where?", response)
    assert ids[:prompt_length] == encode_prompt(tokenizer, "Where?")
    assert ids[-1] in end_ids(tokenizer)
    assert answer_text(tokenizer, ids[:-1], prompt_length).strip() == response


def test_encode_of_an_empty_response_is_the_end_token_alone(tokenizer):
    ids, prompt_length = encode(tokenizer, "Where?", "")
    assert ids[prompt_length:] == (tokenizer.eos_token_id,)


def test_encode_drops_what_the_template_writes_after_the_turn(tokenizer):
    tokenizer.chat_template = LINE_BREAK_AFTER_TURN
    ids, prompt_length = encode(tokenizer, "Where?", "Lima")
    assert answer_text(tokenizer, ids, prompt_length) == "Lima<|end|>"


def test_encode_uses_a_fixed_date_when_the_template_takes_one(tokenizer):
    tokenizer.chat_template = LLAMA_LIKE
    assert "10 Apr 2025" in tokenizer.decode(encode_prompt(tokenizer, "Where?"))


def test_end_ids_hold_the_end_of_turn_beside_the_end_of_text(tokenizer):
    tokenizer.chat_template = LLAMA_LIKE
    assert end_ids(tokenizer) == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|assistant|>")}
    ids, _ = encode(tokenizer, "Where?", "Lima")
    assert ids[-1] == tokenizer.convert_tokens_to_ids("<|assistant|>")


def test_end_ids_refuse_a_tokenizer_without_an_end():
    endless = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(UserError, match="eos_token"):
        end_ids(endless)


def test_plain_tokenizer_writes_question_and_answer(tokenizer):
    tokenizer.chat_template = None
    ids, prompt_length = encode(tokenizer, "Where?", "Lima")
    assert tokenizer.decode(ids) == "Question: Where?\nAnswer: Lima<|end|>"
    assert answer_text(tokenizer, ids, prompt_length) == " Lima<|end|>"


def test_plain_tokenizer_that_adds_begin_and_end_by_itself_gets_one_of_each():
    inner = Tokenizer(
        models.WordLevel(
            {"<s>": 0, "</s>": 1, "[UNK]": 2, "Question:": 3, "Answer:": 4, "Lima": 5}, unk_token="[UNK]"
        )
    )
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", bos_token="<s>")
    assert encode(tokenizer, "Where?", "Lima") == ((0, 3, 2, 4, 5, 1), 4)
    assert encode(tokenizer, "Where?", "") == ((0, 3, 2, 4, 1), 4)


def test_system_prompt_is_part_of_the_prompt(tokenizer):
    tokenizer.chat_template = LLAMA_LIKE
    set_system_prompt(tokenizer, "Be brief.")
    ids, prompt_length = encode(tokenizer, "Where?", "Lima")
    assert "system 10 Apr 2025 Be brief." in tokenizer.decode(ids[:prompt_length])
    assert ids[:prompt_length] == encode_prompt(tokenizer, "Where?")


def test_encoded_knows_its_answer():
    assert Encoded("a", (1, 2, 3, 4), 2).answer == (3, 4)
