import math

import numpy as np
import pytest

from trainables.data.encoding import encode
from trainables.data.examples import ClosedQuestion
from trainables.metrics.closed_world_mass import (
    MASSES,
    aggregate_questions,
    fact_of,
    question_mass,
    score_questions,
    spurious,
    total_variation,
)


def ask(question_id, prompt, values, subset="forget", true_value=0, canonical=0):
    responses = tuple((f"Born in {value}.", f"A native of {value}.", f"From {value}") for value in values)
    return ClosedQuestion(question_id, prompt, subset, responses, true_value, canonical)


QUESTIONS = (
    ask("p1/city/test/0", "Where was Kalo born?", ["Lima", "Oslo"]),
    ask("p1/city/test/1", "Kalo was born where, exactly?", ["Lima", "Oslo"], canonical=2),
    ask("p2/city/test/0", "Where was Miren born?", ["Lima", "Oslo"], "retain", true_value=1),
    ask("p3/city/test/0", "Wo lebt Zoë?", ["Łódź", "東京", "Lima"], "retain", true_value=1),
    ask("p4/city/test/0", "Who?", ["Lima", "Oslo", "Cairo", "Rome"], "retain", true_value=3),
)


def brute_force(scorer, question):
    """Probability of every response, multiplied token by token from its own forward pass."""
    table = []
    for row in question.responses:
        table.append([])
        for response in row:
            ids, length = encode(scorer.tokenizer, question.prompt, response)
            logp = scorer.logp(ids)
            table[-1].append(
                math.prod(math.exp(logp[position - 1, ids[position]]) for position in range(length, len(ids)))
            )
    canonical = table[question.true_value][question.canonical]
    true = sum(table[question.true_value])
    everything = sum(map(sum, table))
    return {
        "canonical_mass": canonical,
        "rephrased_mass": sum(
            p for column, p in enumerate(table[question.true_value]) if column != question.canonical
        ),
        "true_mass": true,
        "posterior": true / everything,
        "coherence": everything,
    }


def test_question_mass_matches_hand_computed_sums():
    mass = question_mass(np.log([[0.1, 0.2, 0.05], [0.3, 0.05, 0.1]]), true_value=1, canonical=2)
    assert mass.canonical_mass == pytest.approx(0.1)
    assert mass.rephrased_mass == pytest.approx(0.35)
    assert mass.true_mass == pytest.approx(0.45)
    assert mass.coherence == pytest.approx(0.8)
    assert mass.posterior == pytest.approx(0.45 / 0.8)


def test_question_mass_is_chance_when_all_values_tie():
    mass = question_mass([[math.log(0.01)] * 5] * 12, true_value=3, canonical=0)
    assert mass.posterior == pytest.approx(1 / 12)
    assert mass.coherence == pytest.approx(0.6)


def test_question_mass_of_a_single_phrasing_has_nothing_rephrased():
    mass = question_mass(np.log([[0.5], [0.25]]), true_value=0, canonical=0)
    assert (mass.rephrased_mass, mass.canonical_mass) == (0.0, pytest.approx(0.5))


def test_question_mass_keeps_the_posterior_when_the_model_has_collapsed():
    mass = question_mass([[-2000.0, -2000.0], [-2000.0, -2000.0]], true_value=0, canonical=0)
    assert (mass.true_mass, mass.coherence) == (0.0, 0.0)
    assert mass.posterior == pytest.approx(0.5)


def test_question_mass_does_not_pass_one_by_rounding():
    assert question_mass([[1e-7], [-50.0]], true_value=0, canonical=0).coherence == 1.0


def test_question_mass_lets_nan_through():
    assert math.isnan(question_mass([[math.nan, -1.0], [-1.0, -1.0]], true_value=1, canonical=0).coherence)


def test_score_questions_matches_brute_force(tiny):
    scorer = tiny.scorer(batch=20)
    items = {item["id"]: item for item in score_questions(scorer, QUESTIONS)}
    assert len(items) == len(QUESTIONS)
    for question in QUESTIONS:
        item = items[question.id]
        assert item["subset"] == question.subset
        assert {name: item[name] for name in MASSES} == pytest.approx(brute_force(scorer, question), rel=1e-9)
        assert 0 < item["coherence"] < 1


def test_score_questions_matches_brute_force_when_the_tokenizer_has_no_chat_template(tiny, monkeypatch):
    monkeypatch.setattr(tiny.tokenizer, "chat_template", None)
    scorer = tiny.scorer()
    for item, question in zip(
        sorted(score_questions(scorer, QUESTIONS[:3]), key=lambda item: item["id"]),
        QUESTIONS[:3],
        strict=True,
    ):
        assert {name: item[name] for name in MASSES} == pytest.approx(brute_force(scorer, question), rel=1e-9)


def test_score_questions_gives_every_rank_as_many_calls(tiny):
    results, scorers = tiny.ranks(2, lambda scorer: score_questions(scorer, QUESTIONS), batch=12)
    assert [scorer.calls for scorer in scorers] == [["score_continuations"] * 3] * 2
    alone = {item["id"]: item for item in score_questions(tiny.scorer(), QUESTIONS)}
    assert {item["id"]: item for result in results for item in result} == alone


def item(question_id, subset="forget", **masses):
    return {"id": question_id, "subset": subset, **dict.fromkeys(MASSES, 0.5), **masses}


def test_aggregate_questions_takes_means_per_subset():
    items = [
        item("a/x/test/0", true_mass=0.2),
        item("b/x/test/0", true_mass=0.4),
        item("c/x/test/0", "retain", true_mass=0.9),
    ]
    metrics = aggregate_questions(items)
    assert metrics["forget_true_mass"] == pytest.approx(0.3)
    assert metrics["retain_true_mass"] == pytest.approx(0.9)
    assert metrics["utility"] == pytest.approx(2 / (1 / 0.9 + 1 / 0.5))
    assert set(metrics) == {f"{subset}_{name}" for subset in ("forget", "retain") for name in MASSES} | {
        "forget_spurious",
        "utility",
    }


def test_aggregate_questions_measures_squeeze_against_the_original():
    metrics = aggregate_questions([item("a/x/test/0", rephrased_mass=0.8)], {"forget_rephrased_mass": 0.5})
    assert metrics["forget_squeeze"] == pytest.approx(0.3)
    assert "utility" not in metrics


def test_total_variation_counts_what_is_not_listed_as_one_answer():
    one, other = np.log([0.5, 0.25]), np.log([0.125, 0.375])
    assert total_variation(one, other) == pytest.approx((0.375 + 0.125 + 0.25) / 2)
    assert total_variation(one, one) == 0.0
    assert total_variation([-800.0, 0.0], [0.0, -800.0]) == 1.0
    assert total_variation([1e-7], [-800.0]) == 1.0
    assert math.isnan(total_variation([math.nan, -1.0], other))
    with pytest.raises(ValueError, match="same responses"):
        total_variation([0.0], other)


def test_aggregate_questions_measures_the_distance_to_the_retrained_model_question_by_question():
    near, far = np.log([0.5, 0.25]).tolist(), np.log([0.125, 0.375]).tolist()
    items = [
        item("a/x/test/0", logp_nats=near),
        item("b/x/test/0", logp_nats=far),
        item("c/x/test/0", "retain", logp_nats=near),
    ]
    retrained = [
        item("b/x/test/0", logp_nats=near),
        item("a/x/test/0", logp_nats=near),
        item("c/x/test/0", "retain", logp_nats=near),
    ]
    metrics = aggregate_questions(items, None, retrained)
    assert metrics["forget_total_variation"] == pytest.approx(total_variation(far, near) / 2)
    assert metrics["retain_total_variation"] == 0.0


def test_scored_questions_hold_every_response_so_that_a_model_is_at_no_distance_from_itself(tiny):
    items = score_questions(tiny.scorer(), QUESTIONS)
    for question in QUESTIONS:
        (found,) = [item for item in items if item["id"] == question.id]
        assert np.exp(found["logp_nats"]).sum() == pytest.approx(found["coherence"])
        assert len(found["logp_nats"]) == sum(map(len, question.responses))
    metrics = aggregate_questions(items, None, items)
    assert metrics["forget_total_variation"] == metrics["retain_total_variation"] == 0.0


def test_utility_is_zero_when_the_forget_questions_have_collapsed():
    metrics = aggregate_questions(
        [item("a/x/test/0", coherence=0.0), item("c/x/test/0", "retain", true_mass=0.9)]
    )
    assert metrics["utility"] == 0.0


def test_spurious_counts_facts_whose_canonical_answer_is_gone_while_the_value_is_believed():
    items = [
        item("a/x/test/0", canonical_mass=0.001, posterior=0.9),
        item("a/x/test/1", canonical_mass=0.001, posterior=0.3),  # the fact's mean is .6: believed
        item("b/x/test/0", canonical_mass=0.001, posterior=0.5),  # not above one half
        item("c/x/test/0", canonical_mass=0.01, posterior=0.9),  # not below .01
        item("d/x/test/0", canonical_mass=0.5, posterior=0.9),
    ]
    assert spurious(items) == 0.25


def test_fact_of_drops_part_and_template():
    assert fact_of("p07/city/validation/1") == "p07/city"
    assert fact_of("loose") == "loose"
