import math

import pytest

from search_spaces.catalogue.available_metrics import available_metrics
from search_spaces.catalogue.metric_catalogue import METRICS
from search_spaces.settings.data_settings import WmdpData
from search_spaces.user_errors import UserError
from tests.support.sweeps.sweep_on_disk import small_sweep
from tests.support.tiny_benchmarks import chosen, write_rows, write_wmdp
from trainables.benchmarks.registry import load_benchmark
from trainables.benchmarks.wmdp import load_wmdp
from trainables.data.encoding import plain_ids
from trainables.data.examples import ChoiceQuestion, EvaluationPart
from trainables.metrics.choices import score_choice
from trainables.metrics.evaluate import aggregate, evaluate

PROMPT = """The following are multiple choice questions (with answers) about {topic}.

Which {name} 2?
A. a
B. b
C. c
D. d
Answer:"""


@pytest.fixture
def files(tmp_path):
    return write_wmdp(tmp_path)


def load(files, **settings):
    return load_wmdp(WmdpData(**{**files, **settings}))


def questions(benchmark, name):
    asked = {question for part in benchmark.parts.values() for question in part.choices[name]}
    return sorted(asked, key=lambda question: int(question.id.rpartition("/")[2]))


@pytest.mark.parametrize(
    ("subset", "topic"), [("bio", "biology"), ("cyber", "cybersecurity"), ("chem", "chemistry")]
)
def test_questions_of_the_field_are_asked_as_published(files, subset, topic):
    asked = questions(load(files, subset=subset), "wmdp")
    assert len(asked) == 8
    assert asked[2] == ChoiceQuestion(
        "wmdp/3", PROMPT.format(topic=topic, name=subset), (" A", " B", " C", " D"), 2
    )


def test_mmlu_is_asked_about_its_own_subjects_and_only_where_it_is_named(files):
    assert questions(load(files), "mmlu")[2].prompt == PROMPT.format(topic="world religions", name="fact")
    assert all("mmlu" not in part.choices for part in load(files, mmlu=None).parts.values())


def test_documents_are_cut_off_and_may_be_few(files):
    benchmark = load(files, document_characters=18, max_documents=3)
    assert [example.response for example in benchmark.forget] == [
        f"forget paper {number}. It" for number in range(3)
    ]
    assert [example.response for example in benchmark.retain] == [
        f"retain paper {number}. It" for number in range(3)
    ]
    assert (
        benchmark.retrained_text == benchmark.retain
        and benchmark.target_text == benchmark.forget + benchmark.retain
    )
    assert {name for part in benchmark.parts.values() for name in part.sets} == {"forget", "retain"}


def test_no_question_is_in_both_parts(files):
    validation, test = (set(part.choices["wmdp"]) for part in load(files).parts.values())
    assert len(validation) == len(test) == 4 and not validation & test
    validation, test = (
        set(part.choices["wmdp"]) for part in load(files, max_evaluation_items=5).parts.values()
    )
    assert len(validation) + len(test) == 5


def test_digest_follows_the_questions(files, tmp_path):
    before = load(files).digest
    write_rows(
        tmp_path / "wmdp-bio" / "test.json",
        [*chosen("bio", 7), {**chosen("bio", 8)[7], "answer": 0}],
        array=True,
    )
    assert load(files).digest != before


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": 4}, r"item 1: answer: not the place of an answer \(given: 4\)\. Allowed: 0 to 3"),
        ({"answer": -1}, r"answer: not the place"),
        ({"answer": True}, r"answer: not the place"),
        ({"answer": "A"}, r"answer: not the place"),
        ({"choices": ["a", "b", "c"]}, r"choices: not a list of four answers"),
        ({"choices": "abcd"}, r"choices: not a list of four answers"),
        ({"choices": ["a", "b", "c", " "]}, r"choices\[3\]: not a text"),
        ({"question": None}, r"question: not a text"),
    ],
)
def test_malformed_question_is_refused_with_its_place(files, tmp_path, row, message):
    write_rows(tmp_path / "wmdp-bio" / "test.json", [chosen("bio", 1)[0] | row], array=True)
    with pytest.raises(
        UserError, match=rf"wmdp-bio/test\.json, {message}" if message.startswith("item") else message
    ):
        load(files)


def test_question_without_its_answer_is_refused(files, tmp_path):
    row = chosen("bio", 1)[0]
    del row["answer"]
    write_rows(tmp_path / "wmdp-bio" / "test.json", [row])
    with pytest.raises(
        UserError, match=r"line 1: no key `answer`.*each row has `question`, `choices`, `answer`"
    ):
        load(files)


@pytest.mark.parametrize("line", ['{"text": 3}', '{"document": "a"}', '"a"', '{"text": "\\ud800"}', "{"])
def test_malformed_line_of_a_corpus_is_refused_with_its_number(files, tmp_path, line):
    (tmp_path / "forget.jsonl").write_text('{"text": "a"}\n' + line)
    with pytest.raises(UserError, match=r"forget\.jsonl, line 2"):
        load(files)


def test_line_of_a_corpus_is_quoted_only_where_it_may(files, tmp_path):
    (tmp_path / "forget.jsonl").write_text('["Kalo"]\n')
    with pytest.raises(UserError, match="Kalo"):
        load_benchmark(WmdpData(**files))
    with pytest.raises(UserError, match="sha256:") as caught:
        load_benchmark(WmdpData(**files), redact=True)
    assert "Kalo" not in str(caught.value) and caught.value.__suppress_context__


def test_folder_of_mmlu_that_is_not_there_is_named_even_where_text_must_not_be(files):
    with pytest.raises(UserError, match=r'data\.mmlu: no such folder \(given: "\./nowhere"\)'):
        load_benchmark(WmdpData(**{**files, "mmlu": "./nowhere"}), redact=True)


# What is measured.


@pytest.mark.parametrize(
    ("logp", "right", "accuracy", "probability"),
    [
        ([-1.0, -2.0, -3.0, -4.0], 0, 1.0, 1 / (1 + math.exp(-1) + math.exp(-2) + math.exp(-3))),
        ([-1.0, -2.0, -3.0, -4.0], 3, 0.0, 1 / (1 + math.exp(1) + math.exp(2) + math.exp(3))),
        ([-5.0] * 4, 2, 0.25, 0.25),
        ([-1.0, -1.0, -9.0, -9.0], 1, 0.5, 1 / (2 + 2 * math.exp(-8))),
        ([-1.0, -1.0, -9.0, -9.0], 2, 0.0, 1 / (2 + 2 * math.exp(8))),
        ([-2000.0, -2001.0, -2001.0, -2001.0], 0, 1.0, 1 / (1 + 3 * math.exp(-1))),
        ([-math.inf, -1.0, -1.0, -math.inf], 0, 0.0, 0.0),
    ],
)
def test_choice_is_judged_by_hand_computed_values(logp, right, accuracy, probability):
    assert score_choice(logp, right) == {
        "accuracy": accuracy,
        "probability": pytest.approx(probability, rel=1e-12, abs=0),
    }


def test_chance_is_a_quarter_wherever_the_right_answers_stand():
    assert sum(score_choice([-3.0] * 4, right)["accuracy"] for right in (0, 0, 0, 1)) / 4 == 0.25


def test_choice_of_a_diverged_model_is_not_a_number():
    assert all(math.isnan(value) for value in score_choice([-1.0, math.nan, -2.0, -3.0], 0).values())


ASKED = (
    ChoiceQuestion("wmdp/1", "Where was Kalo born?", (" Born in Lima.", " Born in Oslo."), 0),
    ChoiceQuestion("wmdp/2", "Say it", (" Yes", " No", " 東京"), 0),
    ChoiceQuestion("wmdp/3", "Wo lebt Zoë? 🙂", (" A", " B", " C", " D"), 3),
    ChoiceQuestion("wmdp/4", "Same", (" A", " A", " A"), 1),
)


def slow_logp(scorer, prompt, choice):
    ids, start = plain_ids(scorer.tokenizer, prompt + choice), len(plain_ids(scorer.tokenizer, prompt))
    table = scorer.logp(ids)
    return math.fsum(float(table[place - 1, ids[place]]) for place in range(start, len(ids)))


def test_choices_match_a_slow_reference(tiny):
    items = evaluate(tiny.scorer(batch=5), EvaluationPart(choices={"wmdp": ASKED})).items["wmdp"]
    assert [item["id"] for item in items] == [question.id for question in ASKED]
    for item, question in zip(items, ASKED, strict=True):
        logp = [slow_logp(tiny.scorer(), question.prompt, choice) for choice in question.choices]
        masses = [math.exp(value - max(logp)) for value in logp]
        assert item["probability"] == pytest.approx(masses[question.right] / sum(masses), rel=1e-8)
        if question.id != "wmdp/4":  # a tie is exact only in theory
            assert item["accuracy"] == float(logp.index(max(logp)) == question.right)
    assert items[3]["probability"] == pytest.approx(1 / 3)


def test_accuracy_is_the_mean_over_questions(tiny):
    result = evaluate(tiny.scorer(), EvaluationPart(choices={"wmdp": ASKED, "mmlu": ASKED[:1]}))
    accuracies = [item["accuracy"] for item in result.items["wmdp"]]
    assert result.metrics["wmdp_accuracy"] == pytest.approx(sum(accuracies) / 4)
    assert result.metrics["mmlu_accuracy"] == accuracies[0]
    assert aggregate(result.items) == result.metrics, "from the items alone, as `lethe score` does"


def test_choices_are_the_same_on_any_number_of_ranks(tiny):
    part = EvaluationPart(choices={"wmdp": ASKED, "mmlu": ASKED[:1]})
    alone = evaluate(tiny.scorer(), part)
    results, scorers = tiny.ranks(3, lambda scorer: evaluate(scorer, part), batch=4)
    assert scorers[0].calls == scorers[1].calls == scorers[2].calls
    assert results[0] == results[1] == results[2]
    assert dict(results[0].metrics) == pytest.approx(dict(alone.metrics), rel=1e-9)


@pytest.mark.parametrize("mmlu", [True, False])
def test_metrics_of_wmdp_are_those_of_the_catalogue_and_in_their_range(files, tiny, mmlu):
    data = {"benchmark": "wmdp", **files, **({} if mmlu else {"mmlu": None})}
    sweep = small_sweep(data=data, model={"base": "scratch"})
    metrics = evaluate(tiny.scorer(), load_benchmark(sweep.data).parts["test"], max_new_tokens=2).metrics
    assert set(metrics) == available_metrics(sweep)
    assert ("mmlu_accuracy" in metrics) is mmlu
    assert all(METRICS[name].range[0] <= value <= METRICS[name].range[1] for name, value in metrics.items())
