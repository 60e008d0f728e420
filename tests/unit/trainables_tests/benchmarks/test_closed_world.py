import string
from collections import Counter
from fractions import Fraction

import pytest

from search_spaces.settings.data_settings import ClosedWorldData
from search_spaces.user_errors import UserError
from trainables.benchmarks.closed_world import build_closed_world, phrasing_counts
from trainables.benchmarks.world_text import ATTRIBUTES

WORLD = ClosedWorldData(people=12, forget_people=3, attributes=4, values=6, phrasings=4, seed=5)


@pytest.fixture(scope="module")
def world():
    return build_closed_world(WORLD)


def bag(text):
    return {word.strip(string.punctuation).lower() for word in text.replace("{name}", "").split()} - {""}


@pytest.mark.parametrize("weight", [0.5, 0.6, 0.2, 0.75, 0.1, 0.02, 0.98])
@pytest.mark.parametrize("phrasings", [2, 3, 5])
def test_phrasing_counts_realise_the_canonical_weight_exactly(weight, phrasings):
    canonical, other = phrasing_counts(weight, phrasings)
    assert Fraction(canonical, canonical + other * (phrasings - 1)) == Fraction(str(weight))


@pytest.mark.parametrize("weight", [1e-9, 1 - 1e-9, 1 / 3])
def test_phrasing_counts_stay_small_and_positive(weight):
    canonical, other = phrasing_counts(weight, 5)
    assert 1 <= canonical <= 200
    assert 1 <= other <= 50


def canonical_answers(world):
    """Canonical answer of each retained fact; ids are person/attribute/template/phrasing/copy."""
    parts = ((example.id.split("/"), example.response) for example in world.retain)
    return {
        f"{person}/{attribute}": response
        for (person, attribute, _, phrasing, _), response in parts
        if phrasing == "0"
    }


def test_forget_set_holds_the_canonical_answer_of_each_fact_of_the_last_people(world):
    assert [example.id for example in world.forget] == [
        f"p{person:02d}/{attribute.name}" for person in (9, 10, 11) for attribute in ATTRIBUTES
    ]
    firsts = {attribute.phrasings[0].split("{")[0] for attribute in ATTRIBUTES}
    assert {
        next(first for first in firsts if example.response.startswith(first)) for example in world.forget
    } == firsts


def test_retain_set_is_the_training_text_of_the_others_in_all_phrasings(world):
    assert world.retain == world.retrained_text
    assert len({example.id for example in world.retain}) == len(world.retain)
    assert not {example.id[:3] for example in world.retain} & {"p09", "p10", "p11"}


def test_target_text_draws_canonical_answers_with_their_weight(world):
    firsts = tuple(attribute.phrasings[0].split("{")[0] for attribute in ATTRIBUTES)
    text = world.retrained_text
    assert sum(example.response.startswith(firsts) for example in text) * 2 == len(text)
    assert len({example.id for example in world.target_text}) == len(world.target_text)


def test_retrained_text_is_the_target_text_without_the_forgotten_people(world):
    names = {example.prompt for example in world.forget}
    assert not names & {example.prompt for example in world.retrained_text}
    assert set(world.retrained_text) < set(world.target_text)
    assert {example.id[:3] for example in set(world.target_text) - set(world.retrained_text)} == {
        "p09",
        "p10",
        "p11",
    }


def test_answers_never_repeat_a_name(world):
    names = {
        word
        for example in world.target_text
        for word in example.prompt.split()
        if word[0].isupper() and word not in {"Where", "Which", "What", "In", "Tell"}
    }
    assert len(names) >= 24
    stripped = {name.strip(string.punctuation) for name in names}
    assert not any(stripped & set(example.response.rstrip(".").split()) for example in world.target_text)


@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=lambda attribute: attribute.name)
def test_template_groups_are_disjoint_and_of_known_words(attribute):
    groups = [attribute.training, attribute.validation, attribute.test]
    assert len(set().union(*groups)) == sum(map(len, groups))
    known = set().union(*map(bag, attribute.training))
    assert all(bag(template) <= known for template in attribute.validation + attribute.test)
    assert all("{name}" in template for group in groups for template in group)
    assert len(set(attribute.values)) == 16
    assert len(set(attribute.phrasings)) == 5


def test_evaluation_prompts_are_never_in_the_training_text(world):
    trained = {example.prompt for example in world.target_text}
    prompts = [{question.prompt for question in part.questions} for part in world.parts.values()]
    assert not (prompts[0] | prompts[1]) & trained
    assert not prompts[0] & prompts[1]


@pytest.mark.parametrize("part", ["validation", "test"])
def test_questions_list_every_value_in_every_phrasing(world, part):
    answers = {example.id: example.response for example in world.forget}
    for question in world.parts[part].questions:
        assert (len(question.responses), len(question.responses[0])) == (6, 4)
        assert len({response for row in question.responses for response in row}) == 24
        if question.subset == "forget":
            fact = "/".join(question.id.split("/")[:2])
            assert question.responses[question.true_value][question.canonical] == answers[fact]


@pytest.mark.parametrize("part", ["validation", "test"])
def test_questions_cover_forgotten_facts_in_all_templates_and_each_retained_person_once(world, part):
    questions = world.parts[part].questions
    assert Counter(question.subset for question in questions) == {"forget": 3 * 4 * 2, "retain": 9}
    assert len({question.id for question in questions}) == len(questions)
    assert len({question.id.split("/")[0] for question in questions if question.subset == "retain"}) == 9
    assert {question.id.split("/")[1] for question in questions if question.subset == "retain"} == {
        attribute.name for attribute in ATTRIBUTES
    }


def test_retained_answers_are_true(world):
    answers = canonical_answers(world)
    for question in world.parts["test"].questions:
        if question.subset == "retain":
            assert question.responses[question.true_value][0] == answers["/".join(question.id.split("/")[:2])]


def test_values_are_equally_common():
    world = build_closed_world(ClosedWorldData(people=24, forget_people=2, values=8))
    answers = canonical_answers(world) | {example.id: example.response for example in world.forget}
    assert set(Counter(answers.values()).values()) == {3}


def test_world_is_the_same_for_the_same_settings_and_another_for_another_seed():
    first, second = build_closed_world(WORLD), build_closed_world(WORLD)
    assert first == second
    assert build_closed_world(WORLD.model_copy(update={"seed": 6})).digest != first.digest


def test_smallest_and_largest_worlds_can_be_built():
    small = build_closed_world(
        ClosedWorldData(people=2, forget_people=1, attributes=1, values=2, phrasings=2, canonical_weight=0.9)
    )
    assert len(small.forget) == 1
    large = build_closed_world(
        ClosedWorldData(people=120, forget_people=100, attributes=4, values=16, phrasings=5)
    )
    assert len({example.prompt for example in large.forget}) == 400


def test_world_refuses_more_people_than_names():
    with pytest.raises(UserError, match="at most 1000"):
        build_closed_world(ClosedWorldData(people=1001))
