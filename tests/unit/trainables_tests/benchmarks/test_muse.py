import json
import math

import pytest

from search_spaces.catalogue.available_metrics import available_metrics
from search_spaces.catalogue.metric_catalogue import METRICS
from search_spaces.settings.data_settings import MuseData
from search_spaces.user_errors import UserError
from tests.support.sweeps.sweep_on_disk import small_sweep
from tests.support.tiny_benchmarks import write_muse, write_rows
from trainables.benchmarks.encoded_benchmark import load_encoded_benchmark
from trainables.benchmarks.muse import load_muse
from trainables.benchmarks.registry import load_benchmark
from trainables.data.encoding import encode_example, plain_ids
from trainables.data.examples import EvaluationPart, Example
from trainables.metrics.evaluate import evaluate
from trainables.metrics.example_sets import judge
from trainables.metrics.rouge import rouge_l_f1, rouge_l_recall


@pytest.fixture
def folder(tmp_path):
    return write_muse(tmp_path / "muse")


def load(folder, **settings):
    return load_muse(MuseData(path=str(folder), **settings))


def evaluated(benchmark, name):
    """The examples of a set, of both parts, in the order of the file."""
    items = {item for part in benchmark.parts.values() for item in part.sets[name]}
    return sorted(items, key=lambda item: int(item.id.rpartition("/")[2]))


def test_text_to_forget_and_to_keep_is_cut_into_examples(folder):
    benchmark = load(folder, chunk_characters=64)
    told = "\n\n".join(f"forget story {number} tells of Kalo." for number in range(6))
    assert " ".join(example.response for example in benchmark.forget).split() == told.split()
    assert all(len(example.response) <= 64 and example.plain for example in benchmark.forget)
    assert benchmark.retain[0].response.startswith("retain1 story 0 tells of Kalo.")


def test_prepared_models_know_both_retain_splits_and_only_the_target_what_is_forgotten(folder):
    benchmark = load(folder, retain="retain2")
    assert benchmark.retain[0].response.startswith("retain2") and len(benchmark.retain) == 1
    assert [example.response.split()[0] for example in benchmark.retrained_text] == ["retain2", "retain1"]
    assert benchmark.target_text == benchmark.forget + benchmark.retrained_text


def test_request_decides_what_is_forgotten_and_no_yardstick(folder):
    plain = load(folder)
    for request in ("sust_1", "sust_4", "scal_2"):
        kind, number = request.split("_")
        benchmark = load(folder, forget=request)
        assert [example.response for example in benchmark.forget] == [f"{kind} request {number}."]
        assert benchmark.parts == plain.parts and benchmark.retain == plain.retain


def test_attacked_texts_are_forget_retain_and_holdout_sets(folder):
    benchmark = load(folder, chunk_characters=20)
    for name in ("forget", "retain", "holdout"):
        assert [item.response for item in evaluated(benchmark, name)] == [
            f"{name} rumour {number}"[:20].strip() for number in range(4)
        ]


def test_question_stands_behind_its_own_sets_shots(folder):
    prompt = (
        "Question: What is {0} 0?\nAnswer: {0} is 0.\n\nQuestion: What is {0} 1?\nAnswer: {0} is"
        " 1.\n\nQuestion: What is {1} 2?\nAnswer: "
    )
    benchmark = load(folder, shots=2)
    for name in ("forget", "retain"):
        item = evaluated(benchmark, f"{name}_knowmem")[2]
        assert item == Example(
            f"{name}_knowmem/3",
            prompt.format(f"{name}_qa shot", f"{name}_qa"),
            f"{name}_qa is 2.",
            plain=True,
        )
    assert (
        evaluated(load(folder, shots=0), "forget_knowmem")[0].prompt
        == "Question: What is forget_qa 0?\nAnswer: "
    )
    assert evaluated(load(folder), "forget_knowmem")[0].prompt.count("Question: ") == 11


def test_shots_are_not_read_where_none_are_asked_for(folder):
    (folder / "knowmem" / "forget_qa_icl.json").unlink()
    assert load(folder, shots=0).forget
    with pytest.raises(UserError, match=r"the folder has no knowmem/forget_qa_icl\.json"):
        load(folder)


@pytest.mark.parametrize(
    ("prompt", "rest", "joined"),
    [("He", "ran", "He ran"), ("He ", "ran", "He ran"), ("He", " ran", "He ran"), ("He\n", "ran", "He\nran")],
)
def test_passage_and_its_continuation_have_one_space_between_them(folder, prompt, rest, joined):
    write_rows(folder / "verbmem" / "forget.jsonl", [{"prompt": prompt, "gt": rest}])
    (item,) = evaluated(load(folder), "verbmem")
    assert item.prompt + item.response == joined and item.prompt == prompt


def test_evaluation_items_can_be_limited(folder):
    sets = [part.sets for part in load(folder, max_evaluation_items=3).parts.values()]
    assert {name: len(sets[0][name]) + len(sets[1][name]) for name in sets[0]} == dict.fromkeys(sets[0], 3)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            "raw/forget",
            (
                r"raw/forget\.json, line 1: no key `text` \(given: \[\"title\"\]\)\. Write objects.*each row"
                r" has `text`"
            ),
        ),
        ("knowmem/retain_qa", r"retain_qa\.json, line 1: no key `question`"),
        ("privleak/holdout", r"holdout\.json, line 1: no key `text`"),
    ],
)
def test_other_columns_are_refused_with_file_and_line(folder, broken, message):
    write_rows(folder / f"{broken}.json", [{"title": "x"}])
    with pytest.raises(UserError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"text": ', r"line 2: not JSON"),
        ('[{"text": "a"}, 3]', r"item 2: not a JSON object \(given: 3\)"),
        ('[{"text": "a"}, ', r"not JSON"),
        ('[{"text": "a"}, {"text": " "}]', r"item 2: text: not a text, or an empty one"),
        ('{"text": 4}', r"line 1: text: not a text"),
        ("[]", "no examples"),
        ("", "no examples"),
    ],
)
def test_malformed_table_is_refused_with_its_place(folder, content, message):
    (folder / "raw" / "forget.json").write_text(content)
    with pytest.raises(UserError, match=rf"raw/forget\.json.*{message}"):
        load(folder)


def test_hub_is_asked_for_configuration_split_and_revision(monkeypatch, folder):
    import datasets

    asked = []

    def load_dataset(path, **more):
        asked.append((path, more["name"], more["split"], more["revision"]))
        file = next((folder / more["name"]).glob(f"{more['split']}.json*"))
        text = file.read_text()
        return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    there = load_muse(MuseData(path="muse-bench/MUSE-Books", revision="v1", forget="scal_3"))
    assert there.digest == load(folder, forget="scal_3").digest
    assert len(asked) == 11 and ("muse-bench/MUSE-Books", "scal", "forget_3", "v1") in asked


def test_row_of_the_hub_is_named_with_its_number(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda path, **more: [{"text": "a"}, {"text": None}])
    with pytest.raises(UserError, match=r"muse-bench/MUSE-News:raw/forget, row 2: text: not a text"):
        load_muse(MuseData())


def test_split_that_the_hub_lacks_is_refused_with_its_name(monkeypatch):
    import datasets

    def refuse(path, **more):
        raise ValueError(f"Unknown split \"{more['split']}\". Should be one of ['train'].")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(
        UserError, match=r'org/x:raw/forget: data\.path: cannot be read: Unknown split "forget"'
    ):
        load_muse(MuseData(path="org/x"))


def test_text_that_is_forgotten_and_kept_is_quoted_only_where_it_may(folder):
    write_rows(
        folder / "raw" / "retain1.json",
        [{"text": f"forget story {number} tells of Kalo."} for number in range(6)],
    )
    data = MuseData(path=str(folder))
    with pytest.raises(UserError, match=r"forget/0 and retain/0.*tells of Kalo"):
        load_benchmark(data)
    with pytest.raises(UserError, match=r"forget/0 and retain/0.*sha256:") as caught:
        load_benchmark(data, redact=True)
    assert "Kalo" not in str(caught.value)


def test_lane_trains_on_text_that_has_no_end(folder, tiny):
    data = load_encoded_benchmark(MuseData(path=str(folder), chunk_characters=64), tiny.tokenizer)
    assert all(not item.ended and item.prompt_length == 1 for item in (*data.forget, *data.retain))
    assert tiny.tokenizer.decode(data.forget[0].answer) == data.benchmark.forget[0].response


# What is measured.


def slow_continuation(scorer, prompt, longest, stops=()):
    start = plain_ids(scorer.tokenizer, prompt)
    ids = list(start)
    while len(ids) < len(start) + longest and (
        len(ids) == len(start) or ids[-1] != scorer.tokenizer.eos_token_id
    ):
        ids.append(int(scorer.logp(ids)[-1].argmax()))
    text = scorer.tokenizer.decode(ids[len(start) :], skip_special_tokens=True)
    ends = [text.index(stop) for stop in stops if stop in text]
    return text[: min(ends, default=None)].strip()


def slow_nll(scorer, item):
    ids, start = (
        encode_example(scorer.tokenizer, item).ids,
        encode_example(scorer.tokenizer, item).prompt_length,
    )
    table = scorer.logp(ids)
    return -math.fsum(float(table[place - 1, ids[place]]) for place in range(start, len(ids))) / (
        len(ids) - start
    )


SETS = {
    "verbmem": (
        Example("verbmem/1", "Where was Kalo born?", " Born in Lima.", plain=True),
        Example("verbmem/2", "Wo lebt Zoë?", " In Łódź, 東京 🙂.", plain=True),
    ),
    "forget_knowmem": (
        Example("forget_knowmem/1", "Question: Where was Kalo born?\nAnswer: ", "Born in Lima.", plain=True),
        Example("forget_knowmem/2", "Question: Say it\nAnswer: ", "Yes", plain=True),
    ),
    "retain_knowmem": (
        Example(
            "retain_knowmem/1", "Question: What does Kalo do?\nAnswer: ", "Works as a baker.", plain=True
        ),
    ),
}
STOPS = ("\n\n", "\nQuestion", "Question:")


def test_continuations_and_answers_match_slow_references(tiny):
    scorer = tiny.scorer(batch=2)
    metrics = evaluate(scorer, EvaluationPart(sets=SETS), max_new_tokens=12).metrics
    for name, items in SETS.items():
        stops = () if name == "verbmem" else STOPS
        texts = [slow_continuation(scorer, item.prompt, 12, stops) for item in items]
        ids = [tiny.tokenizer(item.response, add_special_tokens=False)["input_ids"] for item in items]
        references = [
            tiny.tokenizer.decode(row[:12]) if name == "verbmem" else item.response
            for row, item in zip(ids, items, strict=True)
        ]
        for field, score in (("rouge_l_f1", rouge_l_f1), ("rouge_l", rouge_l_recall)):
            expected = [score(reference, text) for reference, text in zip(references, texts, strict=True)]
            assert metrics[f"{name}_{field}"] == pytest.approx(sum(expected) / len(expected), rel=1e-9, abs=0)
        losses = [slow_nll(scorer, item) for item in items]
        assert metrics[f"{name}_nll_nats"] == pytest.approx(sum(losses) / len(losses), rel=1e-8)
    assert metrics["verbmem_rouge_l_f1"] > 0


def test_reference_is_cut_to_the_length_of_the_answer_in_passages_only(tiny, monkeypatch):
    from trainables.metrics import example_sets

    compared = {}
    monkeypatch.setattr(
        example_sets, "rouge_fields", lambda answer, reference, f1: compared.update({reference: answer}) or {}
    )
    long = "Born in Lima. " * 20
    sets = {
        name: (Example(name, "Where?", f"{long}{name}", plain=True),)
        for name in ("verbmem", "forget_knowmem")
    }
    evaluate(tiny.scorer(), EvaluationPart(sets=sets), max_new_tokens=3)
    cut, whole = sorted(compared, key=len)
    assert whole == f"{long}forget_knowmem"
    assert cut == tiny.tokenizer.decode(tiny.tokenizer(long, add_special_tokens=False)["input_ids"][:3])


def test_longest_answers_are_the_published_ones(tiny):
    asked = {}

    class Listening(type(tiny.scorer())):
        def generate(self, prompts, max_new_tokens):
            asked.update({prompt: max_new_tokens for prompt in prompts})
            return [[(self.tokenizer.eos_token_id,)] for _ in prompts]

    sets = SETS | {
        "forget": (
            Example("forget/1", "Where?", "Lima."),
            Example("forget/2", "", "Running text.", plain=True),
        )
    }
    items = evaluate(Listening(tiny.model, tiny.tokenizer), EvaluationPart(sets=sets)).items
    lengths = {
        name: {asked[plain_ids(tiny.tokenizer, item.prompt)] for item in members}
        for name, members in SETS.items()
    }
    assert lengths == {"verbmem": {128}, "forget_knowmem": {32}, "retain_knowmem": {32}}
    assert len(asked) == 6, "running text without a prompt asks nothing"
    assert (
        "rouge_l" in items["forget"][0]
        and "rouge_l_f1" not in items["forget"][0]
        and "rouge_l" not in items["forget"][1]
    )


@pytest.mark.parametrize(
    ("answer", "reference", "recall", "f1"),
    [
        ("", "a b", 0.0, 0.0),
        ("a a a", "a b", 1 / 2, 2 / 5),
        ("b a", "a b", 1 / 2, 1 / 2),
        ("東京", "東京で", 2 / 3, 4 / 5),
        ("a", "🙂", None, None),
    ],
)
def test_answer_is_judged_by_hand_computed_values(answer, reference, recall, f1):
    fields = judge(answer, reference, f1=True)
    assert (fields["rouge_l"], fields["rouge_l_f1"]) == (pytest.approx(recall), pytest.approx(f1))
    assert judge(answer, reference, f1=False) == {"generated": answer, "rouge_l": fields["rouge_l"]}


def test_metrics_of_muse_are_those_of_the_catalogue_and_in_their_range(folder, tiny):
    sweep = small_sweep(data={"benchmark": "muse", "path": str(folder)}, model={"base": "scratch"})
    part = load_benchmark(sweep.data).parts["test"]
    retrained = evaluate(tiny.scorer(), part, max_new_tokens=2).items
    metrics = evaluate(tiny.scorer(), part, retrained_items=retrained, max_new_tokens=2).metrics
    assert set(metrics) == available_metrics(sweep)
    assert all(METRICS[name].range[0] <= value <= METRICS[name].range[1] for name, value in metrics.items())
    assert metrics["privleak"] == 0.0


def test_muse_is_measured_the_same_on_any_number_of_ranks(folder, tiny):
    part = load(folder, shots=1).parts["validation"]
    alone = evaluate(tiny.scorer(), part, max_new_tokens=3)
    results, scorers = tiny.ranks(3, lambda scorer: evaluate(scorer, part, max_new_tokens=3))
    assert scorers[0].calls == scorers[1].calls == scorers[2].calls
    assert results[0] == results[1] == results[2]
    assert dict(results[0].metrics) == pytest.approx(dict(alone.metrics), rel=1e-9)
