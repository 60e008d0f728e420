from types import SimpleNamespace

import pytest

from search_spaces.settings.model_settings import ModelSettings
from search_spaces.settings.trial_settings import TrialSettings
from tests.support.training.plain_engine import PlainEngine, random_examples, random_llama
from trainables.benchmarks.encoded_benchmark import EncodedBenchmark
from trainables.data.examples import Benchmark
from trainables.events import Finished, RungDecision, RungReached, RungTested, Stopped
from trainables.jobs import TrialJob
from trainables.training.trial_state import PHASES
from trainables.worker import job_runner
from trainables.worker.job_runner import JobRunner

EMPTY = Benchmark(forget=(), retain=(), target_text=(), retrained_text=(), parts={}, digest="")
DATA = EncodedBenchmark(
    EMPTY, random_examples("forget", [(2, 3)] * 3, seed=1), random_examples("retain", [(2, 2)] * 3, seed=2)
)
TRIAL = TrialSettings.model_validate(
    {"steps": 4, "rungs": 4, "forget": {"method": "graddiff"}, "optimizer": {"global_batch": 3}}
)


@pytest.fixture
def run(monkeypatch):
    """Runs a trial job on a plain engine; returns the outcome, the folders of written weights, the events."""
    written, events = [], []

    def measure(engine, data, trial, parts, evaluation, **kwargs):
        return SimpleNamespace(metrics={f"{part}/score": 0.5 for part in parts})

    def reference_logp(engine, data, settings):
        return {item.id: 0.0 for item in data.forget}

    monkeypatch.setattr(job_runner, "measure", measure)
    monkeypatch.setattr(job_runner, "reference_logp", reference_logp)
    monkeypatch.setattr(job_runner, "save_policy", lambda engine, path: written.append(str(path)))
    monkeypatch.setattr(
        JobRunner, "engine", lambda self, folder, model, trial=None: PlainEngine(random_llama())
    )
    monkeypatch.setattr(JobRunner, "data", lambda self, settings, engine: DATA)

    def run(decide=None, **more):
        job = TrialJob(model=ModelSettings(base="scratch"), folder="/m", trial=TRIAL, **more)
        return JobRunner().run(job, events.append, decide), written, events

    return run


def refuse_to_decide(rung, rungs):
    raise AssertionError("a decision was requested")


def test_trial_writes_the_weights_of_kept_rungs_under_their_numbers(run):
    outcome, written, _ = run(lambda rung, rungs: RungDecision(keep=rung in (1, 3)), weights="/s/weights")
    assert written == ["/s/weights/rung1", "/s/weights/rung3"]
    assert isinstance(outcome, Finished)
    assert {"validation/score", "test/score", "train/loss"} <= outcome.result["metrics"].keys()
    assert set(outcome.result["seconds"]) == set(PHASES)


def test_stopped_trial_has_a_reason(run):
    outcome, written, events = run(
        lambda rung, rungs: RungDecision(go_on=False, reason="ranks 7 of 9"), weights="/s/weights"
    )
    assert isinstance(outcome, Stopped) and (outcome.reason, written) == ("ranks 7 of 9", [])
    assert [event.rung for event in events if isinstance(event, RungReached)] == [1]


def test_trial_that_is_to_end_at_a_rung_is_kept_there_without_a_decision(run):
    outcome, written, events = run(refuse_to_decide, weights="/s/weights", stop_at_rung=2)
    assert isinstance(outcome, Stopped) and written == ["/s/weights/rung2"]
    assert "test/score" in outcome.result["metrics"]
    assert [event.rung for event in events if isinstance(event, RungReached)] == [1, 2]


def test_trial_without_a_driver_is_kept_at_its_end(run):
    assert run(weights="/s/weights")[1] == ["/s/weights/rung4"]


def test_nothing_is_written_without_a_folder_for_weights(run):
    outcome, written, events = run(lambda rung, rungs: RungDecision(keep=True))
    assert written == [] and isinstance(outcome, Finished)
    assert [event.rung for event in events if isinstance(event, RungTested)] == [1, 2, 3]
