import pytest

from search_spaces.settings.data_settings import ClosedWorldData
from search_spaces.user_errors import UserError
from trainables.benchmarks.closed_world import build_closed_world
from trainables.data.examples import ChoiceQuestion, EvaluationPart, Example
from trainables.probes.facts import facts_of, read_paraphrases, value_of

WORLD = build_closed_world(ClosedWorldData(people=6, forget_people=2, attributes=3, values=4, phrasings=5))


def facts(part, tiny, recall=0.7, reworded=None):
    return facts_of(part, tiny.tokenizer, recall, reworded or {})


def test_closed_fact_has_prompts_in_the_templates_of_its_part_and_reworded_in_those_of_training(tiny):
    found = facts(WORLD.parts["test"], tiny)
    assert [fact.id for fact in found] == [
        f"p{person}/{name}" for person in (4, 5) for name in ("city", "profession", "prize")
    ]
    training = {example.prompt for example in WORLD.target_text}
    for fact in found:
        assert len(fact.prompts) == 2 and not training & set(fact.prompts)
        assert set(fact.paraphrases) <= training and len(set(fact.paraphrases)) == 14


def test_closed_fact_is_revealed_in_any_phrasing_and_by_no_other_value(tiny):
    questions = [question for question in WORLD.parts["test"].questions if question.subset == "forget"]
    for fact in facts(WORLD.parts["test"], tiny):
        question = next(question for question in questions if question.prompt == fact.prompts[0])
        assert all(fact.revealed_by(text) for text in question.responses[question.true_value])
        wrong = [
            text
            for value, row in enumerate(question.responses)
            if value != question.true_value
            for text in row
        ]
        assert not any(fact.revealed_by(text) for text in [*wrong, ""])
        assert fact.truth == question.responses[question.true_value][0]
        assert not fact.revealed_by(value_of(question) + "ese"), "a value is a word of its own"


def test_openings_are_the_beginnings_of_all_phrasings_up_to_the_value(tiny):
    city = facts(WORLD.parts["test"], tiny)[0]
    assert city.openings == ("Born in", "A native of", "The birthplace is", "Comes from", "It was")


def test_example_is_revealed_by_most_words_of_any_true_wording(tiny):
    example = Example(
        "q1",
        "Who is she?",
        "A poet from Oslo",
        ("She writes verse in Oslo",),
        questions=("Tell me who she is.",),
    )
    (fact,) = facts(EvaluationPart(sets={"forget": (example,), "retain": (example,)}), tiny)
    assert fact.prompts == ("Who is she?",) and fact.paraphrases == ("Tell me who she is.",)
    assert (
        fact.revealed_by("a poet, from oslo!")
        and fact.revealed_by("Well, she writes verse in Oslo.")
        and fact.revealed_by("a poet from Lima")
    )
    assert not fact.revealed_by("a baker from Lima") and not fact.revealed_by("")
    (strict,) = facts(EvaluationPart(sets={"forget": (example,)}), tiny, recall=1.0)
    assert not strict.revealed_by("a poet from Lima")


def test_passage_is_revealed_by_as_many_words_as_an_answer_may_have(tiny):
    long = " word" * 300
    (fact,) = facts(EvaluationPart(sets={"verbmem": (Example("v", "Once", long, plain=True),)}), tiny)
    assert 0 < len(fact.truth.split()) < 300 and fact.plain


def test_running_text_and_multiple_choice_give_no_facts(tiny):
    text = Example("d", "", "Some document.", plain=True)
    choice = ChoiceQuestion("c", "Which?", (" A", " B"), 0)
    assert facts(EvaluationPart(sets={"forget": (text,)}, choices={"wmdp": (choice,)}), tiny) == []


def test_users_wordings_are_added_to_the_prompts_they_reword(tiny, tmp_path):
    file = tmp_path / "reworded.jsonl"
    file.write_text(
        '{"prompt": "Who is she?", "paraphrases": ["Her name?", "And she is?"]}\n{"prompt": "Else?",'
        ' "paraphrases": ["No?"]}\n'
    )
    example = Example("q1", "Who is she?", "A poet", questions=("Tell me.",))
    (fact,) = facts(EvaluationPart(sets={"forget": (example,)}), tiny, reworded=read_paraphrases(str(file)))
    assert fact.paraphrases == ("Tell me.", "Her name?", "And she is?")


@pytest.mark.parametrize(
    "line",
    ['{"prompt": "a", "paraphrases": "b"}', '{"paraphrases": ["b"]}', '{"prompt": "a", "paraphrases": [1]}'],
)
def test_malformed_wordings_are_refused_with_their_line(tmp_path, line):
    file = tmp_path / "reworded.jsonl"
    file.write_text(f"{line}\n")
    with pytest.raises(UserError, match="line 1"):
        read_paraphrases(str(file))
