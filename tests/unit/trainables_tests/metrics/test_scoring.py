import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from trainables.data.encoding import Encoded, encode, encode_prompt
from trainables.metrics.likelihood import extraction_strength
from trainables.metrics.scoring import batches_of_rank, generate_answers, score_responses

PAIRS = [
    ("Where was Kalo born?", "Born in Lima."),
    ("Where was Miren born?", "A native of Oslo, they say, and that for many years."),
    ("Wo lebt Zoë?", "In Łódź, 東京 🙂."),
    ("Say it", "Yes"),
    ("Nothing?", ""),
    ("What does Kalo do?", "Works as a baker."),
    ("Where was Kalo born?", "Born in Oslo."),
]


def encoded_pairs(tokenizer):
    return [
        Encoded(f"{index}", *encode(tokenizer, prompt, response))
        for index, (prompt, response) in enumerate(PAIRS)
    ]


def slow_scores(scorer, item):
    table = scorer.logp(item.ids)
    logp = [
        float(table[position - 1, item.ids[position]])
        for position in range(item.prompt_length, len(item.ids))
    ]
    hits = [
        int(table[position - 1].argmax()) == item.ids[position]
        for position in range(item.prompt_length, len(item.ids))
    ]
    return logp, hits


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 5, 12])
def test_batches_of_ranks_give_every_item_once_and_every_rank_as_many_calls(world_size, count):
    ranks = [
        batches_of_rank(range(count), SimpleNamespace(rank=rank, world_size=world_size), 2)
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    assert sorted(item for batches in ranks for batch in batches for item in batch) == list(range(count))


def test_score_responses_matches_one_unpadded_sequence_at_a_time(tiny):
    scorer = tiny.scorer(batch=3)
    items = encoded_pairs(tiny.tokenizer)
    scores = score_responses(scorer, items)
    assert sorted(scores) == list(range(len(items)))
    for index, item in enumerate(items):
        logp, hits = slow_scores(scorer, item)
        assert scores[index].nll_nats == pytest.approx(-math.fsum(logp) / len(logp), rel=1e-9)
        if hits[:-1]:
            assert scores[index].extraction_strength == extraction_strength(hits[:-1])
            assert scores[index].exact_memorization == pytest.approx(sum(hits[:-1]) / len(hits[:-1]))


def test_score_responses_with_moments_matches_the_attacks_one_token_at_a_time(tiny):
    items = encoded_pairs(tiny.tokenizer)
    scorer = tiny.scorer(batch=3)
    scores = score_responses(scorer, items, moments=True)
    plain = score_responses(tiny.scorer(batch=3), items)
    assert set(scorer.calls) == {"answer_moments"}
    for index, item in enumerate(items):
        assert replace(scores[index], min_k_plus_plus=None) == plain[index]
        table = scorer.logp(item.ids)
        standardised = []
        for position in range(item.prompt_length, len(item.ids) - 1):
            row = table[position - 1].tolist()
            mean = math.fsum(math.exp(value) * value for value in row)
            deviation = math.sqrt(math.fsum(math.exp(value) * (value - mean) ** 2 for value in row))
            standardised.append((row[item.ids[position]] - mean) / deviation)
        if not standardised:
            assert scores[index].min_k_plus_plus is None
            continue
        lowest = sorted(standardised)[: max(1, len(standardised) * 2 // 5)]
        assert scores[index].min_k_plus_plus == pytest.approx(-math.fsum(lowest) / len(lowest), rel=1e-8)


def test_score_responses_of_an_empty_response_is_its_end_token(tiny):
    scores = score_responses(tiny.scorer(), encoded_pairs(tiny.tokenizer))[4]
    assert scores.exact_memorization is None
    assert 0 < scores.probability < 1


def test_score_responses_divides_the_work_without_changing_it(tiny):
    items = encoded_pairs(tiny.tokenizer)
    alone = score_responses(tiny.scorer(batch=1), items)
    results, scorers = tiny.ranks(3, lambda scorer: score_responses(scorer, items), batch=2)
    assert [scorer.calls for scorer in scorers] == [["answer_stats"] * 2] * 3
    merged = {index: scores for result in results for index, scores in result.items()}
    assert sorted(merged) == sorted(alone)
    for index, scores in merged.items():
        assert scores.nll_nats == pytest.approx(alone[index].nll_nats, rel=1e-9)
        assert scores.extraction_strength == alone[index].extraction_strength


def test_score_responses_runs_an_empty_forward_when_a_rank_has_nothing(tiny):
    items = encoded_pairs(tiny.tokenizer)[:1]
    results, scorers = tiny.ranks(2, lambda scorer: score_responses(scorer, items))
    assert [len(result) for result in results] == [1, 0]
    assert [scorer.calls for scorer in scorers] == [["answer_stats"]] * 2


def test_generate_answers_gives_text_without_end_tokens(tiny):
    prompts = [encode_prompt(tiny.tokenizer, prompt) for prompt, _ in PAIRS]
    answers = generate_answers(tiny.scorer(), prompts, 12)
    assert sorted(answers) == list(range(len(PAIRS)))
    assert not any("<|" in text or text != text.strip() for text in answers.values())


def test_generate_answers_of_a_model_that_ends_at_once_are_empty():
    class Silent:
        rank, world_size, batch = 0, 1, 2

        def __init__(self, tokenizer):
            self.tokenizer = tokenizer

        def generate(self, prompts, max_new_tokens):
            return [[(self.tokenizer.eos_token_id,)] for _ in prompts]

    from trainables.training.scratch_model import train_tokenizer

    assert generate_answers(Silent(train_tokenizer(["a b"], 300)), [(5, 6), (7,)], 4) == {0: "", 1: ""}
