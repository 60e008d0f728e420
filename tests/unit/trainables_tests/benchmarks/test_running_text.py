import random
from itertools import pairwise

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from search_spaces.user_errors import UserError
from tests.support.training.plain_engine import answer_logps
from trainables.benchmarks.running_text import beginnings, chunks, cut
from trainables.data.encoding import Encoded, encode_example, encode_plain, encode_question, plain_ids
from trainables.data.examples import Example, contents_of
from trainables.metrics.scoring import generate_answers, score_responses

TEXT = "Kalo was born in Lima. Then Kalo moved to Oslo, 東京 and Łódź 🙂 and worked there as a baker."


def words_with(begin=None, end=None):
    """A tokenizer of whole words that writes the begin and end tokens of its settings."""
    inner = Tokenizer(
        models.WordLevel(
            {"<s>": 0, "</s>": 1, "[UNK]": 2, "Kalo": 3, "moved": 4, "west": 5}, unk_token="[UNK]"
        )
    )
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    written = " ".join(filter(None, [begin, "$A", end]))
    inner.post_processor = processors.TemplateProcessing(
        single=written, special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", bos_token=begin)


@pytest.mark.parametrize(
    ("text", "size", "pieces"),
    [
        ("The cat sat.", 12, ["The cat sat."]),
        ("The cat sat.", 11, ["The cat", "sat."]),
        ("The cat sat.", 7, ["The cat", "sat."]),
        ("The cat sat.", 6, ["The", "cat", "sat."]),
        ("Abracadabra!", 5, ["Abrac", "adabr", "a!"]),
        ("a  \n\n  b", 3, ["a", "b"]),
        ("   ab", 2, ["ab"]),
        ("東京で生まれた", 3, ["東京で", "生まれ", "た"]),
        ("a\u2003b", 1, ["a", "b"]),
        ("", 4, []),
        (" \n ", 1, []),
    ],
)
def test_text_is_cut_at_spaces_and_long_words_where_they_must(text, size, pieces):
    assert cut(text, size) == pieces


def test_cut_loses_no_word_and_never_passes_the_size():
    chance = random.Random(0)
    for _ in range(300):
        words = ["x" * chance.randint(1, 9) for _ in range(chance.randint(1, 20))]
        text = "".join(word + chance.choice([" ", "  ", "\n\n"]) for word in words)
        size = chance.randint(9, 40)
        pieces = cut(text, size)
        assert " ".join(pieces).split() == words
        assert all(0 < len(piece) <= size for piece in pieces)


def test_no_piece_has_room_for_the_first_word_of_the_next_one():
    pieces = cut("one two three four five six seven eight nine ten", 10)
    assert all(len(piece) + 1 + len(following.split()[0]) > 10 for piece, following in pairwise(pieces))


def test_corpus_is_one_text_that_is_cut_anew_across_its_documents():
    examples = chunks("forget", ["a b", "c d e"], 6)
    assert [(example.id, example.response) for example in examples] == [
        ("forget/0", "a b\n\nc"),
        ("forget/1", "d e"),
    ]
    assert all(example.plain and example.prompt == "" for example in examples)


def test_beginnings_are_one_example_for_each_text():
    examples = beginnings("retain", ["one two three", "four", "  five"], 7)
    assert [example.response for example in examples] == ["one two", "four", "five"]


def test_plain_text_begins_with_the_begin_token_and_has_no_end():
    tokenizer = words_with(begin="<s>")
    assert encode_plain(tokenizer, "", "Kalo moved") == ((0, 3, 4), 1)
    assert encode_plain(tokenizer, "Kalo", " moved west") == ((0, 3, 4, 5), 2)
    encoded = encode_example(tokenizer, Example("a", "Kalo", " moved", plain=True))
    assert encoded == Encoded("a", (0, 3, 4), 2, ended=False)
    assert encoded.answer == encoded.content == (4,)


def test_begin_and_end_that_the_tokenizer_writes_are_there_once_and_not_at_all():
    assert encode_plain(words_with(begin="<s>", end="</s>"), "Kalo", " moved") == ((0, 3, 4), 2)


def test_text_of_a_tokenizer_without_a_begin_token_follows_the_end_of_another():
    assert encode_plain(words_with(), "", "west") == ((1, 5), 1)
    assert plain_ids(words_with(end="</s>"), "") == (1,)


def test_plain_text_needs_a_token_to_begin_with():
    endless = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(UserError, match="eos_token"):
        plain_ids(endless, "a")


def test_text_whose_tokens_merge_over_the_border_keeps_its_prompt(tiny):
    for border in range(1, len(TEXT)):
        ids, length = encode_plain(tiny.tokenizer, TEXT[:border], TEXT[border:])
        assert ids[:length] == plain_ids(tiny.tokenizer, TEXT[:border])
        assert tiny.tokenizer.decode(ids[1:]) == TEXT


def test_prompt_of_running_text_is_no_turn_of_a_conversation(tiny):
    chat, plain = (
        encode_question(tiny.tokenizer, Example("a", "Where?", "Lima", plain=plain))
        for plain in (False, True)
    )
    assert tiny.tokenizer.decode(chat) == "<|user|>Where?<|assistant|>"
    assert tiny.tokenizer.decode(plain) == "<|end|>Where?"


def test_every_token_of_running_text_is_content(tiny):
    item = encode_example(tiny.tokenizer, Example("a", "", TEXT, plain=True))
    (scores,) = score_responses(tiny.scorer(), [item], moments=True).values()
    logp = answer_logps(tiny.model, item)
    table = tiny.scorer().logp(item.ids)
    hits = [int(table[position - 1].argmax()) == item.ids[position] for position in range(1, len(item.ids))]
    assert len(logp) == len(item.ids) - 1
    assert scores.nll_nats == pytest.approx(-sum(logp) / len(logp), rel=1e-9)
    assert scores.exact_memorization == pytest.approx(sum(hits) / len(hits))
    lowest = sorted(logp)[: max(1, len(logp) * 2 // 5)]
    assert scores.min_k_nats == pytest.approx(-sum(lowest) / len(lowest), rel=1e-9)
    assert scores.min_k_plus_plus is not None


def test_running_text_of_one_token_has_all_scores(tiny):
    item = Encoded("a", plain_ids(tiny.tokenizer, "a"), 1, ended=False)
    assert len(item.answer) == 1
    (scores,) = score_responses(tiny.scorer(), [item]).values()
    assert scores.min_k_nats == pytest.approx(scores.nll_nats) and scores.exact_memorization in (0.0, 1.0)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" Lima\n\nQuestion: Who?", "Lima"),
        (" Lima\nQuestion", "Lima"),
        ("Lima Question: Who?\n\nLima", "Lima"),
        ("\n\nLima", ""),
        ("", ""),
        (" 東京\n", "東京"),
    ],
)
def test_answer_is_cut_before_the_first_stop(tiny, text, answer):
    class Saying:
        rank, world_size, batch, tokenizer = 0, 1, 2, tiny.tokenizer

        def generate(self, prompts, max_new_tokens):
            return [[tuple(tiny.tokenizer(text)["input_ids"])] for _ in prompts]

    assert generate_answers(Saying(), [(5, 6)], 4, ("\n\n", "\nQuestion", "Question:")) == {0: answer}


def test_digest_of_examples_that_are_no_running_text_is_what_it_was():
    (chat,), (plain,) = (
        contents_of([Example("a", "b", "c")]),
        contents_of([Example("a", "b", "c", plain=True)]),
    )
    assert chat == {"id": "a", "prompt": "b", "response": "c", "paraphrases": (), "perturbed": ()}
    assert plain == chat | {"plain": True}
