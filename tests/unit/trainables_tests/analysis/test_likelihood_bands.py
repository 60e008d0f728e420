import json
import math

import pytest

from search_spaces.settings.data_settings import ClosedWorldData
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.settings.trial_settings import EngineSettings
from tests.support.training.plain_engine import PlainEngine, run_ranks
from trainables.analysis.likelihood_bands import (
    SPARE_TOKENS,
    as_json,
    band_groups,
    band_metrics,
    bands_of,
    from_json,
    rephrasings,
    split_into_bands,
)
from trainables.benchmarks.encoded_benchmark import EncodedBenchmark
from trainables.benchmarks.registry import load_benchmark
from trainables.data.encoding import Encoded, encode, encode_example
from trainables.data.examples import Benchmark, Example
from trainables.generation.inference import inference

FORGET = (
    Example("f0", "Where was Kalo born?", "Born in Lima.", ("From Lima", "A native of Lima.")),
    Example("f1", "Say it", "Yes"),
    Example("f2", "Where was Miren born?", "Born in Oslo.", ("From Oslo",)),
)
RETAIN = (Example("r0", "What does Kalo do?", "Works as a baker."),)
SETTINGS = EngineSettings(evaluation_batch=4)
BEAMS = 8


def data_of(tokenizer):
    benchmark = Benchmark(FORGET, RETAIN, (), (), {}, "")
    return EncodedBenchmark(
        benchmark,
        [encode_example(tokenizer, item) for item in FORGET],
        [encode_example(tokenizer, item) for item in RETAIN],
    )


@pytest.fixture
def engine(tiny):
    return PlainEngine(tiny.model, tiny.tokenizer)


def slow_logp(scorer, item):
    logp = scorer.logp(item.ids)
    return sum(float(logp[place - 1, item.ids[place]]) for place in range(item.prompt_length, len(item.ids)))


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (0, (0, 0, 0)),
        (1, (0, 1, 0)),
        (2, (0, 1, 1)),
        (3, (1, 1, 1)),
        (5, (1, 2, 2)),
        (10, (2, 4, 4)),
        (11, (2, 5, 4)),
    ],
)
def test_candidates_are_cut_at_20_and_60_percent(count, sizes):
    bands = split_into_bands(list(range(count)))
    assert tuple(len(bands[name]) for name in ("high", "mid", "low")) == sizes
    assert [one for name in ("high", "mid", "low") for one in bands[name]] == list(range(count))


def test_bands_are_what_else_the_model_would_say_by_likelihood(tiny, engine):
    targets = data_of(tiny.tokenizer).forget
    with inference(engine, SETTINGS) as model:
        bands = bands_of(model, targets, BEAMS)
    scorer = tiny.scorer()
    for target in targets:
        logps = {
            name: [slow_logp(scorer, item) for item in members if item.id == target.id]
            for name, members in bands.items()
        }
        assert min(map(len, logps.values())) >= 1
        assert min(logps["high"]) > max(logps["mid"]) and min(logps["mid"]) > max(logps["low"])
        answers = [item.answer for members in bands.values() for item in members if item.id == target.id]
        assert target.answer not in answers and len(set(answers)) == len(answers) <= BEAMS
        assert max(map(len, answers)) <= max(len(item.answer) for item in targets) + SPARE_TOKENS


def test_metrics_are_mean_log_probabilities_of_whole_answers(tiny, engine):
    with inference(engine, SETTINGS) as model:
        probes = band_groups(model, data_of(tiny.tokenizer), BEAMS, examples=2)
        metrics = band_metrics(model, probes)
    assert list(probes) == ["target", "rephrasing", "high band", "mid band", "low band"]
    assert len(probes["target"]) == len(probes["rephrasing"]) == 2
    scorer = tiny.scorer()
    for name, members in probes.items():
        slow = math.fsum(slow_logp(scorer, item) for item in members) / len(members)
        assert metrics[f"bands/{name.replace(' ', '_')}_nats"] == pytest.approx(slow, rel=1e-6)


@pytest.mark.parametrize("mode", ["gathered", "lockstep"])
def test_bands_do_not_depend_on_the_number_of_workers(tiny, engine, mode):
    settings = EngineSettings(evaluation_batch=4, inference=mode)

    def work(engine):
        with inference(engine, settings) as model:
            probes = band_groups(model, data_of(tiny.tokenizer), BEAMS, examples=3)
            return as_json(probes), band_metrics(model, probes)

    alone, metrics = work(engine)
    results, _ = run_ranks(tiny.model, 2, work, tokenizer=tiny.tokenizer)
    for found, theirs in results:
        assert found == alone and theirs == pytest.approx(metrics, rel=1e-6)


def test_probes_are_read_back_as_they_were(tiny):
    probes = {"target": [Encoded("a", (1, 2, 3), 2), Encoded("b", (4, 5), 1, ended=False)], "high band": []}
    assert from_json(json.loads(json.dumps(as_json(probes)))) == probes


def test_rephrasings_of_the_closed_world_tell_the_true_value_in_the_other_phrasings(tiny):
    settings = ClosedWorldData(people=6, forget_people=2, attributes=1, values=3, phrasings=3)
    benchmark = load_benchmark(settings)
    found = rephrasings(tiny.tokenizer, benchmark, benchmark.forget)
    assert len(found) == len(benchmark.forget) * 2
    for example in benchmark.forget:
        (question, *_) = [
            one for one in benchmark.parts["test"].questions if one.id.startswith(f"{example.id}/")
        ]
        row = question.responses[question.true_value]
        assert row[question.canonical] == example.response
        expected = [
            encode(tiny.tokenizer, example.prompt, text)[0]
            for place, text in enumerate(row)
            if place != question.canonical
        ]
        assert [item.ids for item in found if item.id == example.id] == expected


def test_bands_and_redact_exclude_each_other():
    settings = {
        "name": "a",
        "model": {"base": "scratch"},
        "data": {"benchmark": "closed_world"},
        "evaluation": {"bands": 10},
    }
    assert SweepSettings.model_validate(settings).evaluation.bands == 10
    with pytest.raises(ValueError, match="keeps text out"):
        SweepSettings.model_validate({**settings, "redact": True})
