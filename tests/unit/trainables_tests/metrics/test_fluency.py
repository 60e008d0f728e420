import copy
import math

import pytest
import torch
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from search_spaces.catalogue.available_metrics import available_metrics
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError
from trainables.data.encoding import Encoded, encode
from trainables.data.examples import EvaluationPart, Example
from trainables.metrics.aggregates import aggregate_sets, harmonic_mean
from trainables.metrics.evaluate import evaluate, score_part
from trainables.metrics.fluency import Classifier, add_fluency, add_perplexity, classifier
from trainables.metrics.gradient_norm import add_gradient_norms, gradient_norm
from trainables.training.scratch_model import train_tokenizer

FORGET = (
    Example("f0", "Where was Kalo born?", "Born in Lima.", ("From Lima",), ("A native of Oslo.",)),
    Example("f1", "Where was Miren born?", "Born in Oslo.", ("A native of Oslo.",), ("From Rome.",)),
    Example("f2", "Say it", "Yes", ("Yes, yes",), ("No",)),
)
RETAIN = (
    Example("r0", "What does Kalo do?", "Works as a baker.", ("By trade a baker.",), ("By trade a poet.",)),
)
HOLDOUT = (Example("h0", "Where was Nobody born?", "Born in Ravenna."), Example("h1", "Nothing else?", ""))
PART = EvaluationPart(sets={"forget": FORGET, "retain": RETAIN})
ATTACKED = EvaluationPart(sets={"forget": FORGET, "retain": RETAIN, "holdout": HOLDOUT})
NEW = 6


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A folder with a text classifier of random weights that has the published one's labels."""
    return str(
        write_judge(
            tmp_path_factory.mktemp("judge"), {0: "clean", 1: "mild gibberish", 2: "noise", 3: "word salad"}
        )
    )


def write_judge(folder, labels):
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["Born in Lima. Works as a baker."], 300)
    shape = {"dim": 16, "hidden_dim": 32, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 128}
    config = DistilBertConfig(
        vocab_size=len(tokenizer), id2label=labels, label2id={v: k for k, v in labels.items()}, **shape
    )
    model = DistilBertForSequenceClassification(config)
    for parameter in model.parameters():
        parameter.data.normal_()  # its own initial weights give one probability to every text
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def blurred(tiny):
    model = copy.deepcopy(tiny.model)
    model.lm_head.weight.data.mul_(0.3)
    return type(tiny.scorer())(model, tiny.tokenizer)


def test_perplexity_is_that_of_the_original_over_the_answers_of_the_policy(tiny):
    policy, original = blurred(tiny), tiny.scorer()
    items = score_part(policy, PART, max_new_tokens=NEW)
    add_perplexity(original, PART, items)
    for example in FORGET:
        (item,) = [item for item in items["forget"] if item["id"] == example.id]
        ids, length = encode(tiny.tokenizer, example.prompt, item["generated"])
        logp = original.logp(ids)
        slow = -sum(float(logp[position - 1, ids[position]]) for position in range(length, len(ids))) / (
            len(ids) - length
        )
        assert item["generated_nll_nats"] == pytest.approx(slow, rel=1e-6)
    assert "generated_nll_nats" not in items["retain"][0]
    mean = sum(item["generated_nll_nats"] for item in items["forget"]) / len(FORGET)
    metrics = aggregate_sets(items)
    assert metrics["generated_perplexity"] == pytest.approx(math.exp(mean))
    assert not {"fluency", "util", "agg"} & metrics.keys()


def test_running_text_that_goes_on_with_nothing_has_no_perplexity(tiny):
    part = EvaluationPart(sets={"verbmem": (Example("v0", "Kalo was", " born in Lima", plain=True),)})
    items = {"verbmem": [{"id": "v0", "generated": ""}]}
    add_perplexity(tiny.scorer(), part, items)
    assert items["verbmem"][0]["generated_nll_nats"] is None
    assert "generated_perplexity" not in aggregate_sets(items)


def test_fluency_is_what_the_classifier_says_of_each_answer(tiny, judge):
    items = score_part(blurred(tiny), PART, max_new_tokens=NEW)
    add_fluency(tiny.scorer(batch=2), judge, items, PART)
    alone = [Classifier(judge)([item["generated"]], 1)[0] for item in items["forget"]]
    assert [item["fluency"] for item in items["forget"]] == pytest.approx(alone, rel=1e-4)
    assert len(set(alone)) > 1 and all(0 <= value <= 1 for value in alone)
    metrics = aggregate_sets(items)
    assert metrics["fluency"] == pytest.approx(sum(alone) / len(alone), rel=1e-4)
    assert metrics["util"] == pytest.approx(harmonic_mean([metrics["model_utility"], metrics["fluency"]]))
    assert metrics["agg"] == pytest.approx(harmonic_mean([metrics["mem"], metrics["util"]]))


def test_long_answers_are_judged_by_their_beginning(judge):
    text = "Born in Lima. " * 100
    assert Classifier(judge)([text], 1) == Classifier(judge)([text * 2], 1)


def test_every_rank_knows_all_that_was_judged(tiny, judge):
    def judged(scorer):
        items = score_part(scorer, ATTACKED, max_new_tokens=NEW)
        add_perplexity(scorer, ATTACKED, items)
        add_fluency(scorer, judge, items, ATTACKED)
        model = copy.deepcopy(
            tiny.model
        )  # ranks are threads here, and gradients are asked of the model itself
        add_gradient_norms(scorer, model, ATTACKED, items)
        return items

    alone = judged(tiny.scorer())
    results, scorers = tiny.ranks(2, judged)
    assert scorers[0].calls == scorers[1].calls
    for items in results:
        for name, members in items.items():
            for item, expected in zip(members, alone[name], strict=True):
                assert item.keys() == expected.keys()
                for field, value in expected.items():
                    assert item[field] == (
                        pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
                    ), field


def test_gradient_norms_tell_forget_from_holdout_items_and_leave_a_frozen_model_as_it_was(tiny):
    model = copy.deepcopy(tiny.model).requires_grad_(False)
    scorer = type(tiny.scorer())(model, tiny.tokenizer)
    items = evaluate(scorer, ATTACKED, max_new_tokens=1).items
    assert "mia_gradient_norm" not in aggregate_sets(items)
    add_gradient_norms(scorer, model, ATTACKED, items)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    model.requires_grad_(True)
    for name, examples in (("forget", FORGET), ("holdout", HOLDOUT)):
        for example, item in zip(examples, items[name], strict=True):
            ids, length = encode(tiny.tokenizer, example.prompt, example.response)
            assert item["gradient_norm"] == gradient_norm(model, Encoded(example.id, tuple(ids), length))
    assert items["holdout"][1]["gradient_norm"] is None  # an end token alone
    assert 0 <= aggregate_sets(items)["mia_gradient_norm"] <= 1


def test_data_without_a_holdout_set_has_no_gradient_norms(tiny):
    items = score_part(tiny.scorer(), PART, max_new_tokens=1)
    add_gradient_norms(tiny.scorer(), tiny.model, PART, items)
    assert "gradient_norm" not in items["forget"][0]


def test_classifier_that_is_none_is_refused_with_its_key(tmp_path):
    with pytest.raises(UserError, match="no classifier could be loaded") as caught:
        classifier(str(tmp_path / "nowhere"))
    assert caught.value.key == "evaluation.gibberish_model"
    with pytest.raises(UserError, match="no label clean, but bad, good"):
        classifier(str(write_judge(tmp_path / "other", {0: "good", 1: "bad"})))


@pytest.mark.parametrize(
    ("evaluation", "names"),
    [
        ({"fluency": "gibberish"}, {"fluency", "util", "agg"}),
        ({"fluency": "perplexity"}, {"generated_perplexity"}),
        ({"gradient_norm": True}, {"mia_gradient_norm"}),
    ],
)
def test_metrics_that_must_be_asked_for_are_there_when_they_are(evaluation, names):
    def available(**more):
        return available_metrics(
            SweepSettings.model_validate(
                {"name": "a", "model": {"target": "x"}, "data": {"benchmark": "tofu"}, **more}
            )
        )

    assert available(evaluation=evaluation) - available() == names


def test_gradient_norms_of_a_sharded_model_are_refused():
    with pytest.raises(ValueError, match="full copy of the model"):
        settings = {
            "name": "a",
            "model": {"base": "scratch"},
            "data": {"benchmark": "tofu"},
            "evaluation": {"gradient_norm": True},
        }
        SweepSettings.model_validate({**settings, "trial": {"engine": {"inference": "lockstep"}}})
