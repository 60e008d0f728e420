from itertools import combinations
from types import SimpleNamespace

import pytest

from search_spaces.settings.probe_settings import LeakSettings, PrefixSettings
from search_spaces.settings.trial_settings import EngineSettings
from tests.support.training.plain_engine import run_ranks
from trainables.data.encoding import encode, encode_prompt
from trainables.data.examples import EvaluationPart, Example
from trainables.generation.inference import inference
from trainables.metrics.scoring import answer_text
from trainables.probes.answers import (
    Answer,
    Attempt,
    as_evaluated,
    behind_prefixes,
    greedy_answers,
    in_other_words,
    known_frac,
    leak_at_k,
    sampled_answers,
    worst_case,
)
from trainables.probes.facts import Fact, facts_of

SET = (
    Example("kalo", "Where was Kalo born?", "Born in Lima.", questions=("Kalo was born where?",)),
    Example("miren", "Where was Miren born?", "Born in Oslo."),
    Example("job", "What does Kalo do?", "Works as a baker."),
)


def fact(name, *prompts, openings=(), paraphrases=()):
    return Fact(name, prompts, paraphrases, openings, truth="yes", revealed_by=lambda answer: "yes" in answer)


def answers(name, *texts):
    return [Answer(Attempt(fact(name, "?"), "?"), text) for text in texts]


@pytest.mark.parametrize(("count", "leaks", "k"), [(5, 0, 2), (5, 5, 2), (5, 2, 1), (6, 2, 3), (4, 3, 4)])
def test_leak_at_k_is_the_share_of_all_draws_of_k_in_which_one_leaks(count, leaks, k):
    group = answers("a", *["yes"] * leaks, *["no"] * (count - leaks))
    draws = list(combinations(group, k))
    assert leak_at_k([group], k) == pytest.approx(
        sum(any(answer.reveals for answer in draw) for draw in draws) / len(draws)
    )


def test_leak_at_k_is_a_mean_over_questions():
    assert leak_at_k([answers("a", "yes", "no"), answers("b", "no", "no")], 1) == 0.25


def test_worst_case_counts_facts_and_known_frac_counts_attempts():
    mixed = [*answers("a", "no", "yes", "no"), *answers("b", "no")]
    assert worst_case(mixed) == 0.5 and known_frac(mixed) == 0.25


def test_prefixes_stand_before_every_prompt_and_openings_begin_every_answer():
    question = fact("a", "One?", "Two?", openings=("It is",))
    found = behind_prefixes([question], PrefixSettings(prompts=("Please.",), answers=("Sure,",)))
    assert [(attempt.prompt, attempt.opening) for attempt in found] == [
        ("Please. One?", ""),
        ("One?", "It is"),
        ("One?", "Sure,"),
        ("Please. Two?", ""),
        ("Two?", "It is"),
        ("Two?", "Sure,"),
    ]
    assert [attempt.prompt for attempt in in_other_words([fact("a", "One?", paraphrases=("Eins?",))])] == [
        "Eins?"
    ]


def world(tiny):
    return facts_of(EvaluationPart(sets={"forget": SET}), tiny.tokenizer, 0.7, {})


def ask(tiny, world_size, work, batch=4):
    settings = EngineSettings(evaluation_batch=batch)

    def on_rank(engine):
        with inference(engine, settings) as model:
            return work(model)

    results, _ = run_ranks(tiny.model, world_size, on_rank, tiny.tokenizer)
    assert all(result == results[0] for result in results), "equal on every rank"
    return results[0]


def texts(found):
    return [answer.text for answer in found]


def short(facts):
    """Answers of a model that does not end are long: a few tokens will do."""
    return [
        SimpleNamespace(**{**vars(one), "answer_format": type(one.answer_format)(max_new_tokens=8)})
        for one in facts
    ]


def test_greedy_answers_are_those_of_one_question_at_a_time_opening_included(tiny):
    attempts = behind_prefixes(short(world(tiny)), PrefixSettings(prompts=("Now.",), answers=("Born",)))
    found = ask(tiny, 1, lambda model: texts(greedy_answers(model, attempts)))
    expected = []
    for attempt in attempts:
        if attempt.opening:
            ids, _ = encode(tiny.tokenizer, attempt.prompt, attempt.opening)
            prompt = ids[:-1]
        else:
            prompt = encode_prompt(tiny.tokenizer, attempt.prompt)
        ((answer,),) = tiny.scorer().generate([prompt], 8)
        expected.append(answer_text(tiny.tokenizer, answer))
    assert found == expected


@pytest.mark.parametrize("batch", [1, 7])
def test_answers_do_not_depend_on_ranks_or_batches(tiny, batch):
    attempts = as_evaluated(short(world(tiny)))
    drawn = LeakSettings(samples=3, k=1, temperature=1.3)

    def both(model):
        return texts(greedy_answers(model, attempts)), [
            texts(group) for group in sampled_answers(model, attempts, drawn)
        ]

    alone, together = ask(tiny, 1, both), ask(tiny, 2, both, batch)
    assert alone == together
    assert len({text for group in alone[1] for text in group}) > len(attempts), "samples differ"
