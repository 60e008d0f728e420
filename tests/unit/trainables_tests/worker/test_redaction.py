"""`redact: true`: planted text must come out of no error, measurement or table."""

import json
from types import SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

from orchestrator import cli
from search_spaces.user_errors import UserError, hashed
from tests.support.local_lanes import plan_of
from tests.support.sweeps.sweep_on_disk import small_sweep
from tests.support.tiny_benchmarks import write_muse, write_wmdp
from trainables.benchmarks.encoded_benchmark import load_encoded_benchmark
from trainables.benchmarks.registry import load_benchmark
from trainables.jobs import EvaluateJob
from trainables.worker import job_runner
from trainables.worker.model_measurement import Measurement
from trainables.worker.redaction import without_text

SECRET = "Kalo Miren lives in Lima"
GOOD = {"prompt": "Who?", "response": "Nobody."}
BROKEN = {
    "in both sets": json.dumps({"prompt": SECRET, "response": "yes"}),
    "no object": json.dumps(SECRET),
    "a list": json.dumps([SECRET]),
    "a key": json.dumps({SECRET: "a"}),
    "paraphrases": json.dumps({**GOOD, "paraphrases": SECRET}),
    "a nested text": json.dumps({"prompt": {"text": SECRET}, "response": "b"}),
    "not JSON": f'{{"prompt": "{SECRET}',
    "a surrogate": f'{{"prompt": "{SECRET} \\ud800", "response": "b"}}',
}


@pytest.fixture(params=BROKEN)
def data(request, tmp_path):
    """A data block whose forget file is broken in a line that holds the secret."""
    for name in ("forget", "retain"):
        # Only what is in both sets is wrong in the retain file too.
        line = (
            BROKEN[request.param]
            if name == "forget" or request.param == "in both sets"
            else json.dumps({**GOOD, "prompt": "What?"})
        )
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(GOOD | {"prompt": name}) + "\n" + line + "\n")
    return {
        "benchmark": "local_files",
        **{name: str(tmp_path / f"{name}.jsonl") for name in ("forget", "retain")},
    }


def test_error_of_a_data_file_holds_no_text_of_it(data, tmp_path):
    settings = {
        "name": "takedown",
        "redact": True,
        "model": {"target": "org/model"},
        "data": data,
        "space": {"seed": {"int": [0, 3]}},
    }
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(settings))
    done = CliRunner().invoke(cli.app, ["validate", str(file)])
    assert done.exit_code == 2
    assert SECRET not in done.output and "Kalo" not in done.output
    assert "forget.jsonl, line 2" in done.stderr or "forget:2 and retain:2" in done.stderr
    assert "Traceback" not in done.output


def test_error_is_chained_to_nothing_that_a_traceback_would_show(data):
    sweep = small_sweep(data=data, model={"target": "org/model"})
    with pytest.raises(UserError) as caught:
        load_benchmark(sweep.data, redact=True)
    assert caught.value.__suppress_context__ and caught.value.__cause__ is None
    assert SECRET not in repr(vars(caught.value))


def test_workers_never_quote_data_whatever_the_sweep_says(data):
    sweep = small_sweep(data=data, model={"target": "org/model"})
    with pytest.raises(UserError) as caught:
        load_encoded_benchmark(sweep.data, tokenizer=None)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("benchmark", ["muse", "wmdp"])
@pytest.mark.parametrize(
    "line",
    [json.dumps([SECRET]), json.dumps({SECRET: "a"}), json.dumps({"text": [SECRET]}), f'{{"text": "{SECRET}'],
)
def test_error_of_a_benchmarks_own_files_holds_no_text_of_them(tmp_path, benchmark, line):
    data = {"path": str(write_muse(tmp_path))} if benchmark == "muse" else write_wmdp(tmp_path)
    broken = tmp_path / ("raw/forget.json" if benchmark == "muse" else "forget.jsonl")
    broken.write_text(json.dumps({"text": "a"}) + "\n" + line + "\n")
    sweep = small_sweep(data={"benchmark": benchmark, **data}, model={"target": "org/model"})
    with pytest.raises(UserError, match=rf"{broken.name}, line 2") as caught:
        load_benchmark(sweep.data, redact=True)
    assert "Kalo" not in str(caught.value) and "Kalo" not in repr(vars(caught.value))


def test_measurement_of_answers_to_passages_keeps_numbers_and_loses_text():
    items = [
        {"id": "verbmem/1", "generated": SECRET, "rouge_l": 0.5, "rouge_l_f1": 0.25},
        {"id": "wmdp/1", "accuracy": 1.0},
    ]
    kept = without_text({"test": {"verbmem": items}})["test"]["verbmem"]
    assert kept == [items[0] | {"generated": hashed(SECRET)}, items[1]]


def test_items_keep_names_and_numbers_and_lose_every_text():
    item = {
        "id": "forget:1",
        "probability": 0.5,
        "rouge_l": None,
        "right": True,
        "generated": SECRET,
        "later": [SECRET],
    }
    (kept,) = without_text({"test": {"forget": [item]}})["test"]["forget"]
    assert {key: kept[key] for key in ("id", "probability", "rouge_l", "right")} == {
        "id": "forget:1",
        "probability": 0.5,
        "rouge_l": None,
        "right": True,
    }
    assert kept["generated"] == hashed(SECRET) and SECRET not in json.dumps(kept)


@pytest.mark.parametrize("redact", [True, False])
def test_measurement_that_is_written_holds_text_only_where_it_may(tmp_path, monkeypatch, redact):
    engine = type("Engine", (), {"rank": 0, "tokenizer": SimpleNamespace()})()
    result = Measurement(
        {"test/utility": 1.0}, {"test": {"forget": [{"id": "forget:1", "generated": SECRET}]}}
    )
    runner = job_runner.JobRunner()
    monkeypatch.setattr(runner, "engine", lambda *arguments: engine)
    monkeypatch.setattr(runner, "data", lambda *arguments: None)
    monkeypatch.setattr(job_runner, "measure", lambda *arguments, **more: result)
    monkeypatch.setattr(job_runner, "reference_logp", lambda *arguments: {"forget:1": -1.0})
    output = tmp_path / "measured.json"
    job = EvaluateJob(
        name="original", model={"base": "scratch"}, folder="nowhere", output=str(output), redact=redact
    )
    outcome = runner.run(job, lambda event: None)
    assert (SECRET in output.read_text()) is (SECRET in json.dumps(outcome.result)) is (not redact)


def test_measurement_with_text_does_not_serve_a_sweep_that_wants_none(tmp_path):
    world = {
        "benchmark": "closed_world",
        "people": 6,
        "forget_people": 2,
        "attributes": 1,
        "values": 3,
        "phrasings": 2,
    }
    plain, redacted = (plan_of(small_sweep(data=world, redact=redact), tmp_path) for redact in (False, True))
    assert plain.original.folder == redacted.original.folder
    assert plain.original.measurement != redacted.original.measurement
    assert [job.redact for job in redacted.measure] == [True, True]
