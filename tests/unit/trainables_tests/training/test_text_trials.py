"""Trials on running text: MUSE and WMDP through the loop that TOFU's questions go through."""

import numpy as np
import pytest
import torch

from search_spaces.settings.data_settings import MuseData, WmdpData
from search_spaces.settings.forget_settings import RetainSettings
from tests.support.tiny_benchmarks import write_muse, write_wmdp
from tests.support.training.observed_trials import run, trial_of, weights
from tests.support.training.plain_engine import PlainEngine, answer_logps, run_ranks
from trainables.benchmarks.encoded_benchmark import load_encoded_benchmark
from trainables.metrics.evaluate import evaluate

METHODS = ["graddiff", "npo", "simnpo", "rmu"]


@pytest.fixture(params=["muse", "wmdp"])
def data(request, tmp_path, tiny):
    """A lane's data: a few pieces of text."""
    if request.param == "wmdp":
        return load_encoded_benchmark(WmdpData(**write_wmdp(tmp_path), max_documents=3), tiny.tokenizer)
    return load_encoded_benchmark(
        MuseData(path=str(write_muse(tmp_path)), chunk_characters=80), tiny.tokenizer
    )


@pytest.mark.parametrize("method", METHODS)
def test_text_is_unlearned_the_same_on_any_number_of_ranks(tiny, data, method):
    trial = trial_of(method, "none" if method == "rmu" else "token", optimizer={"learning_rate": 1e-2})

    def work(engine):
        return run(engine, trial, data)

    ((alone, _),), (engine,) = run_ranks(tiny.model, 1, work, tiny.tokenizer)
    ((result, _), _), (other, _) = run_ranks(tiny.model, 2, work, tiny.tokenizer)
    assert result.metrics == pytest.approx(alone.metrics, rel=1e-6)
    torch.testing.assert_close(weights(other), weights(engine), rtol=1e-6, atol=1e-8)
    assert not torch.allclose(weights(engine), weights(PlainEngine(tiny.model)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["graddiff", "npo"])
def test_text_that_is_pushed_down_goes_down_and_its_metrics_say_so(tiny, data, method):
    engine = PlainEngine(tiny.model, tiny.tokenizer)
    # The made-up texts are too alike to hold one and to push the other; SimNPO leaves alone what the model
    # does not know.
    trial = trial_of(method, "none", optimizer={"learning_rate": 1e-2}).model_copy(
        update={"retain": RetainSettings(loss="none")}
    )
    run(engine, trial, data)
    before, after = (
        np.mean([np.mean(answer_logps(engine.models[model], item)) for item in data.forget])
        for model in ("pristine", "policy")
    )
    assert after < before - 0.1
    original, policy = (
        evaluate(
            type(tiny.scorer())(engine.models[model], tiny.tokenizer),
            data.benchmark.parts["test"],
            max_new_tokens=2,
        ).metrics
        for model in ("pristine", "policy")
    )
    assert original.keys() == policy.keys()
    assert policy["forget_nll_nats"] > original["forget_nll_nats"] + 0.1
