"""The prompted model: the original with an instruction to forget in front of every question."""

import json
from types import SimpleNamespace

import pytest

from orchestrator.pareto.front import front_json
from orchestrator.storage.trial_records import BASELINES
from search_spaces.settings.sweep_settings import BaselineSettings
from tests.support.local_lanes import plan_of
from tests.support.sweeps.sweep_on_disk import small_sweep
from tests.unit.orchestrator_tests.storage.test_baselines import WORLD, ensured
from trainables.data.encoding import (
    encode,
    encode_example,
    encode_plain,
    encode_prompt,
    encode_question,
    instructed,
)
from trainables.data.examples import Example
from trainables.jobs import EvaluateJob
from trainables.worker import job_runner
from trainables.worker.model_measurement import Measurement

FORGET_IT = "Forget Kalo."


def sweep(instruction=FORGET_IT, **more):
    return small_sweep(data=WORLD, model={"base": "scratch"}, baselines={"instruction": instruction}, **more)


def test_every_sweep_has_a_prompted_model_unless_it_says_otherwise(tmp_path):
    assert "forget" in str(BaselineSettings().instruction)
    plan = plan_of(sweep(), tmp_path)
    assert [(job.name, job.instruction) for job in plan.measure] == [
        ("retrained", None),
        ("original", None),
        ("prompted", FORGET_IT),
    ]
    assert plan.prompted.folder == plan.original.folder
    assert plan.measure[2].retrained == str(plan.retrained.measurement)
    assert plan_of(sweep(None), tmp_path).prompted is None


def test_measurement_is_shared_exactly_by_the_same_instruction(tmp_path):
    plan, same = plan_of(sweep(), tmp_path), plan_of(sweep(), tmp_path)
    other = plan_of(sweep("Forget Miren."), tmp_path)
    assert plan.prompted == same.prompted
    files = {plan.prompted.measurement, other.prompted.measurement, plan.original.measurement}
    assert len(files) == 3


def test_prompted_model_is_measured_and_noted_beside_the_others(tmp_path):
    folder, lanes, _ = ensured(sweep(), tmp_path)
    assert "measuring the prompted model" in lanes.jobs
    assert set(json.loads(folder.baselines.read_text())) == {"original", "prompted", "retrained"}


def test_front_lists_every_baseline_and_null_for_those_without_a_measurement():
    metrics = {"test/forget_true_mass": 0.5, "test/utility": 0.75}
    found = front_json(sweep(), [], {"prompted": metrics})["baselines"]
    assert found == {**dict.fromkeys(BASELINES), "prompted": {"forget_true_mass": 0.5, "utility": 0.75}}


@pytest.mark.parametrize(
    "template", [None, "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"]
)
def test_instruction_stands_in_front_of_every_question_and_leaves_answers_alone(tiny, monkeypatch, template):
    tokenizer = tiny.tokenizer
    monkeypatch.setattr(tokenizer, "chat_template", template)
    question, answer = "Where was Kalo born?", "Born in Lima."
    passage = Example("a", "Kalo was born in", " Lima", plain=True)
    plain_ids, plain_length = encode(tokenizer, question, answer)
    text_ids = encode_plain(tokenizer, "", "Kalo was born")
    with instructed(tokenizer, FORGET_IT):
        ids, length = encode(tokenizer, question, answer)
        assert ids[:length] == encode_prompt(tokenizer, question)
        assert FORGET_IT in tokenizer.decode(ids[:length])
        assert ids[length:] == plain_ids[plain_length:]
        assert encode_plain(tokenizer, "", "Kalo was born") == text_ids, "plain text has no question"
        encoded = encode_example(tokenizer, passage)
        prompt_ids = encoded.ids[: encoded.prompt_length]
        assert prompt_ids == encode_question(tokenizer, passage)
        assert FORGET_IT in tokenizer.decode(prompt_ids)
    assert encode(tokenizer, question, answer) == (plain_ids, plain_length)


def test_instruction_is_removed_also_when_measuring_fails(tiny):
    before = encode_prompt(tiny.tokenizer, "Say it")
    with pytest.raises(ZeroDivisionError), instructed(tiny.tokenizer, FORGET_IT):
        raise ZeroDivisionError
    assert encode_prompt(tiny.tokenizer, "Say it") == before


def test_job_is_measured_under_its_instruction(tmp_path, monkeypatch):
    seen = []
    engine = SimpleNamespace(rank=0, tokenizer=SimpleNamespace(_lethe_instruction=None))

    def measure(engine, *arguments, **more):
        seen.append(engine.tokenizer._lethe_instruction)
        return Measurement({"test/utility": 1.0}, {})

    runner = job_runner.JobRunner()
    monkeypatch.setattr(runner, "engine", lambda *arguments: engine)
    monkeypatch.setattr(runner, "data", lambda *arguments: None)
    monkeypatch.setattr(job_runner, "measure", measure)
    monkeypatch.delattr(job_runner, "reference_logp")
    job = EvaluateJob(
        name="prompted",
        model={"base": "scratch"},
        folder="nowhere",
        output=str(tmp_path / "a.json"),
        instruction=FORGET_IT,
    )
    assert runner.run(job, lambda event: None).result["reference_logp_nats"] == {}, (
        "trials compare with the original as it is"
    )
    assert (seen, engine.tokenizer._lethe_instruction) == ([FORGET_IT], None)
