import copy
import json
import math
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from search_spaces.catalogue.metric_catalogue import METRICS
from trainables.data.encoding import encode, encode_prompt, end_ids
from trainables.data.examples import Benchmark, ClosedQuestion, EvaluationPart, Example
from trainables.metrics.evaluate import evaluate, evaluate_parts
from trainables.metrics.rouge import rouge_l_recall

FORGET = (
    Example(
        "f0",
        "Where was Kalo born?",
        "Born in Lima.",
        ("A native of Lima.", "From Lima"),
        ("A native of Oslo.", "A native of Rome."),
    ),
    Example(
        "f1",
        "Where was Miren born?",
        "Born in Oslo.",
        ("A native of Oslo.",),
        ("A native of Lima.", "A native of Rome."),
    ),
    Example("f2", "Say it", "Yes", ("Yes, yes",), ("No", "Never in my life")),
    Example("f3", "Where was Kalo born?", "Born in Oslo.", ("Comes from Oslo.",), ("Comes from Rome.",)),
)
RETAIN = (
    Example(
        "r0",
        "What does Kalo do?",
        "Works as a baker.",
        ("By trade a baker.",),
        ("By trade a poet.", "By trade a pilot."),
    ),
    Example("r1", "Wo lebt Zoë?", "In Łódź, 東京 🙂.", ("Łódź!",), ("Köln!", "Ravenna!")),
)
WORLD = (
    Example("w0", "Where is the tower?", "Paris", (), ("Berlin", "Rome", "Madrid")),
    Example("w1", "Where was Kalo born?", "Born in Lima.", (), ("Born in Oslo.", "No")),
)
AUTHORS = (
    replace(WORLD[0], id="a0", prompt="Who?"),
    Example("a1", "What does Kalo do?", "Works as a baker.", (), ("Works as a poet.",)),
)
HOLDOUT = (
    Example("h0", "Where was Nobody born?", "Born in Ravenna."),
    Example("h1", "Wer lebt hier?", "東京, der Ölbaum!"),
    Example(
        "h2", "What does Kalo do?", "Works as a baker."
    ),  # the model knows it, so no attack tells all apart
    Example("h3", "Nothing else?", ""),
)
FULL = EvaluationPart(
    sets={"forget": FORGET, "retain": RETAIN, "world_facts": WORLD, "real_authors": AUTHORS}
)


def questions(count):
    responses = (("Lima", "In Lima"), ("Oslo", "In Oslo"))
    return tuple(
        ClosedQuestion(f"p{index}/city/test/0", "Where" + "?" * index, "forget", responses, 0)
        for index in range(count)
    )


def slow_nll(scorer, prompt, response):
    ids, length = encode(scorer.tokenizer, prompt, response)
    logp = scorer.logp(ids)
    return -sum(float(logp[position - 1, ids[position]]) for position in range(length, len(ids))) / (
        len(ids) - length
    )


def slow_hits(scorer, prompt, response):
    ids, length = encode(scorer.tokenizer, prompt, response)
    logp = scorer.logp(ids)
    return [int(logp[position - 1].argmax()) == ids[position] for position in range(length, len(ids) - 1)]


def slow_answer(scorer, prompt, longest):
    ids = list(encode_prompt(scorer.tokenizer, prompt))
    start = len(ids)
    for _ in range(longest):
        ids.append(int(scorer.logp(ids)[-1].argmax()))
        if ids[-1] in end_ids(scorer.tokenizer):
            return scorer.tokenizer.decode(ids[start:-1]).strip()
    return scorer.tokenizer.decode(ids[start:]).strip()


def slow_ratio(scorer, example):
    wrong = [math.exp(-slow_nll(scorer, example.prompt, text)) for text in example.perturbed]
    right = [
        math.exp(-slow_nll(scorer, example.prompt, text))
        for text in example.paraphrases or (example.response,)
    ]
    return math.prod(wrong) ** (1 / len(wrong)) / math.prod(right) ** (1 / len(right))


def slow_metrics(scorer, name, examples):
    def p(example, text):
        return math.exp(-slow_nll(scorer, example.prompt, text))

    options = name in ("real_authors", "world_facts")
    ratios = [slow_ratio(scorer, example) for example in examples]
    hits = [slow_hits(scorer, example.prompt, example.response) for example in examples]
    strengths = [next((1 - k / len(row) for k in range(len(row)) if all(row[k:])), 0.0) for row in hits]
    expected = {
        "probability": [
            p(e, e.response) / (sum(p(e, text) for text in (e.response, *e.perturbed)) if options else 1)
            for e in examples
        ],
        "nll_nats": [slow_nll(scorer, e.prompt, e.response) for e in examples],
        "rouge_l": [rouge_l_recall(e.response, slow_answer(scorer, e.prompt, 10)) for e in examples],
        "extraction_strength": strengths,
        "extraction_strength_ou": [
            max(strength, 1 / len(row)) for strength, row in zip(strengths, hits, strict=True)
        ],
        "exact_memorization": [sum(row) / len(row) for row in hits],
        "truth_ratio": [min(r, 1 / r) if name == "forget" else max(0, 1 - r) for r in ratios],
    }
    if all(example.paraphrases for example in examples):
        expected["paraphrase_probability"] = [
            np.mean([p(e, text) for text in e.paraphrases]) for e in examples
        ]
    return {f"{name}_{field}": float(np.mean(values)) for field, values in expected.items()}


def test_evaluate_matches_slow_references(tiny):
    scorer = tiny.scorer(batch=3)
    metrics = evaluate(scorer, FULL, max_new_tokens=10).metrics
    expected = {}
    for name, examples in FULL.sets.items():
        expected |= slow_metrics(scorer, name, examples)
    kept, parts = ("retain", "real_authors", "world_facts"), ("probability", "rouge_l", "truth_ratio")
    nine = [expected[f"{name}_{part}"] for name in kept for part in parts]
    expected["model_utility"] = 0.0 if min(nine) == 0 else 9 / sum(1 / value for value in nine)
    paper_ratio = np.mean([1 / (1 + slow_ratio(scorer, example)) for example in FORGET])
    memory = [
        expected[f"forget_{part}"]
        for part in ("extraction_strength_ou", "exact_memorization", "paraphrase_probability")
    ]
    four = [*memory, paper_ratio]
    expected["mem"] = 0.0 if max(four) == 1 else 4 / sum(1 / (1 - value) for value in four)
    assert dict(metrics) == pytest.approx(expected, rel=1e-8)
    assert (
        0 < metrics["mem"] < 1
        and 0 < metrics["model_utility"] < 1
        and 0 < metrics["forget_extraction_strength"] < 1
    )


def test_evaluate_gives_catalogued_metrics_within_their_range(tiny):
    part = EvaluationPart(
        questions=questions(1), sets={**FULL.sets, "holdout": (replace(WORLD[0], perturbed=()),)}
    )
    retrained = evaluate(tiny.scorer(), FULL, max_new_tokens=4).items
    metrics = evaluate(
        tiny.scorer(),
        part,
        baseline={"forget_rephrased_mass": 0.1},
        retrained_items=retrained,
        max_new_tokens=4,
    ).metrics
    assert {"forget_quality", "forget_squeeze", "mem", "model_utility", "holdout_nll_nats"} <= set(metrics)
    for name, value in metrics.items():
        low, high = METRICS[name].range
        assert low <= value <= high, name


def slow_attacks(scorer, retrained, example):
    """Every attack's score of one item, one token at a time; low for a member."""
    nll = slow_nll(scorer, example.prompt, example.response)
    scores = {"mia_loss": nll, "mia_zlib": nll / len(zlib.compress(example.response.encode("utf-8")))}
    scores["mia_reference"] = nll - slow_nll(retrained, example.prompt, example.response)
    ids, length = encode(scorer.tokenizer, example.prompt, example.response)
    table = scorer.logp(ids)
    plain, standardised = [], []
    for position in range(length, len(ids) - 1):  # the end token is left out
        row = table[position - 1].tolist()
        mean = sum(math.exp(value) * value for value in row)
        variance = sum(math.exp(value) * (value - mean) ** 2 for value in row)
        plain.append(row[ids[position]])
        standardised.append((plain[-1] - mean) / math.sqrt(variance))
    if plain:
        number = max(1, len(plain) * 2 // 5)
        scores["mia_min_k"] = -sum(sorted(plain)[:number]) / number
        scores["mia_min_k_plus_plus"] = -sum(sorted(standardised)[:number]) / number
    return scores


def slow_auc(members, others):
    return float(
        np.mean([(member < other) + 0.5 * (member == other) for member in members for other in others])
    )


def test_membership_metrics_match_slow_references(tiny):
    other = copy.deepcopy(tiny.model)
    generator = torch.Generator().manual_seed(0)
    for parameter in other.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    retrained = type(tiny.scorer())(other, tiny.tokenizer)
    part = EvaluationPart(sets={"forget": FORGET, "retain": RETAIN, "holdout": HOLDOUT})
    beside = evaluate(retrained, part, max_new_tokens=2)
    metrics = evaluate(tiny.scorer(batch=2), part, retrained_items=beside.items, max_new_tokens=2).metrics

    def slow(scorer, attack):
        scores = [
            [slow_attacks(scorer, retrained, example).get(attack) for example in part.sets[name]]
            for name in ("forget", "holdout")
        ]
        return slow_auc(*([value for value in column if value is not None] for column in scores))

    expected = {
        f"mia_{name}": slow(tiny.scorer(), f"mia_{name}")
        for name in ("loss", "zlib", "min_k", "min_k_plus_plus", "reference")
    }
    missed = 1 - slow(retrained, "mia_min_k")
    expected["privleak"] = 100 * (1 - expected["mia_min_k"] - missed) / missed
    expected["privleak_abs"] = abs(expected["privleak"])
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-8)
    assert expected["privleak_abs"] > 1 and all(
        0 < expected[name] < 1 for name in ("mia_loss", "mia_min_k", "mia_reference")
    )
    assert {"mia_reference", "privleak"}.isdisjoint(beside.metrics) and "mia_min_k" in beside.metrics


def test_scores_of_attacks_are_kept_per_item(tiny):
    part = EvaluationPart(sets={"forget": FORGET, "retain": RETAIN, "holdout": HOLDOUT})
    items = evaluate(tiny.scorer(), part, max_new_tokens=2).items
    for name in ("forget", "holdout"):
        for item, example in zip(items[name], part.sets[name], strict=True):
            expected = slow_attacks(tiny.scorer(), tiny.scorer(), example)
            assert item["zlib_nats"] == pytest.approx(expected["mia_zlib"], rel=1e-8)
            tokens = [item["min_k_nats"], item["min_k_plus_plus"]]
            assert tokens == (
                [None] * 2
                if not example.response
                else pytest.approx([expected["mia_min_k"], expected["mia_min_k_plus_plus"]])
            )
    assert "zlib_nats" not in items["retain"][0]


def test_holdout_items_are_scored_but_not_answered(tiny):
    part = EvaluationPart(sets={"forget": FORGET[:1], "holdout": HOLDOUT})
    answered = []

    class Listening(type(tiny.scorer())):
        def generate(self, prompts, max_new_tokens):
            answered.extend(prompts)
            return super().generate(prompts, max_new_tokens)

    result = evaluate(Listening(tiny.model, tiny.tokenizer), part, max_new_tokens=2)
    assert answered == [encode_prompt(tiny.tokenizer, FORGET[0].prompt)]
    assert "holdout_nll_nats" in result.metrics and "holdout_rouge_l" not in result.metrics
    assert all("generated" not in item for item in result.items["holdout"])


def test_whole_distributions_are_read_only_where_there_is_a_holdout(tiny):
    calls = {}
    for name, holdout in (("with", HOLDOUT), ("without", ())):
        scorer = tiny.scorer()
        evaluate(
            scorer,
            EvaluationPart(sets={"forget": FORGET, "retain": RETAIN, "holdout": holdout}),
            max_new_tokens=1,
        )
        calls[name] = scorer.calls
    assert calls["with"].count("answer_moments") == 2  # eight of its responses in batches of four
    assert "answer_moments" not in calls["without"]


def test_membership_is_the_same_for_any_number_of_ranks(tiny):
    part = EvaluationPart(sets={"forget": FORGET, "holdout": HOLDOUT})
    alone = evaluate(tiny.scorer(), part, max_new_tokens=1)
    results, scorers = tiny.ranks(3, lambda scorer: evaluate(scorer, part, max_new_tokens=1))
    assert scorers[0].calls == scorers[1].calls == scorers[2].calls
    assert results[0] == results[1] == results[2]
    assert dict(results[0].metrics) == pytest.approx(dict(alone.metrics), rel=1e-9)


def test_evaluate_is_the_same_on_every_rank_and_for_any_number_of_ranks(tiny):
    part = replace(FULL, questions=questions(3))
    alone = evaluate(tiny.scorer(), part, max_new_tokens=6)
    results, scorers = tiny.ranks(2, lambda scorer: evaluate(scorer, part, max_new_tokens=6))
    assert scorers[0].calls == scorers[1].calls
    assert results[0] == results[1]
    assert dict(results[0].metrics) == pytest.approx(dict(alone.metrics), rel=1e-9)
    assert [item["id"] for item in results[0].items["forget"]] == ["f0", "f1", "f2", "f3"]
    assert results[0].items["retain"][1]["generated"] == alone.items["retain"][1]["generated"]


def test_evaluate_leaves_out_what_the_data_does_not_allow(tiny):
    part = EvaluationPart(
        sets={
            "forget": (Example("x", "Say it", "Yes"),),
            "retain": (Example("y", "Nothing?", ""),),
            "holdout": (),
        }
    )
    metrics = evaluate(tiny.scorer(), part, max_new_tokens=3).metrics
    of_forget = {
        "probability",
        "nll_nats",
        "rouge_l",
        "extraction_strength",
        "extraction_strength_ou",
        "exact_memorization",
    }
    assert set(metrics) == {f"forget_{name}" for name in of_forget} | {
        "retain_probability",
        "retain_nll_nats",
        "mem",
        "model_utility",
    }
    assert metrics["model_utility"] == pytest.approx(metrics["retain_probability"])


def test_evaluate_of_nothing_gives_nothing(tiny):
    assert evaluate(tiny.scorer(), EvaluationPart()).metrics == {}


def test_forget_quality_is_one_against_the_same_model_read_back_from_json(tiny):
    items = json.loads(json.dumps(evaluate(tiny.scorer(), FULL, max_new_tokens=2).items))
    metrics = evaluate(tiny.scorer(), FULL, retrained_items=items, max_new_tokens=2).metrics
    assert (metrics["forget_quality"], metrics["forget_quality_log10"]) == (1.0, 0.0)


def test_evaluate_parts_names_metrics_by_part_and_compares_within_it(tiny):
    (question,) = questions(1)
    parts = {
        "validation": EvaluationPart(questions=(question,)),
        "test": EvaluationPart(questions=(replace(question, true_value=1),)),
    }
    benchmark = Benchmark((), (), (), (), parts, "digest")
    original = evaluate_parts(tiny.scorer(), benchmark)
    assert "validation/forget_true_mass" in original.metrics and "test/forget_squeeze" not in original.metrics
    baseline = {key: value + 0.25 * key.startswith("test/") for key, value in original.metrics.items()}
    again = evaluate_parts(tiny.scorer(), benchmark, baseline=baseline, retrained_items=original.items)
    assert again.metrics["validation/forget_squeeze"] == pytest.approx(0.0)
    assert again.metrics["test/forget_squeeze"] == pytest.approx(-0.25)
    assert set(again.items) == {"validation", "test"}
    only = evaluate_parts(tiny.scorer(), benchmark, ("validation",))
    assert all(key.startswith("validation/") for key in only.metrics)
