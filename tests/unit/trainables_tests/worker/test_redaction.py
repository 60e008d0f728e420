"""With `redact: true` no error, measurement or table holds a planted text."""

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
from trainables.worker.redaction import redact_items, redact_parts

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
    """Returns a data block whose forget file is broken in a line that holds the secret."""
    for name in ("forget", "retain"):
        # An example in both sets is the only case in which the retain file is wrong too.
        broken = name == "forget" or request.param == "in both sets"
        line = BROKEN[request.param] if broken else json.dumps({**GOOD, "prompt": "What?"})
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(GOOD | {"prompt": name}) + "\n" + line + "\n")
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("forget", "retain")}
    return {"benchmark": "local_files", **files}


def test_error_in_a_data_file_quotes_no_text_of_it(data, tmp_path):
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


def test_error_has_no_cause_that_a_traceback_would_show(data):
    sweep = small_sweep(data=data, model={"target": "org/model"})
    with pytest.raises(UserError) as caught:
        load_benchmark(sweep.data, redact=True)
    assert caught.value.__suppress_context__ and caught.value.__cause__ is None
    assert SECRET not in repr(vars(caught.value))


def test_workers_never_quote_data_even_without_redaction(data):
    sweep = small_sweep(data=data, model={"target": "org/model"})
    with pytest.raises(UserError) as caught:
        load_encoded_benchmark(sweep.data, tokenizer=None)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("benchmark", ["muse", "wmdp"])
@pytest.mark.parametrize(
    "line",
    [json.dumps([SECRET]), json.dumps({SECRET: "a"}), json.dumps({"text": [SECRET]}), f'{{"text": "{SECRET}'],
)
def test_error_in_the_files_of_a_benchmark_quotes_no_text_of_them(tmp_path, benchmark, line):
    data = {"path": str(write_muse(tmp_path))} if benchmark == "muse" else write_wmdp(tmp_path)
    broken = tmp_path / ("raw/forget.json" if benchmark == "muse" else "forget.jsonl")
    broken.write_text(json.dumps({"text": "a"}) + "\n" + line + "\n")
    sweep = small_sweep(data={"benchmark": benchmark, **data}, model={"target": "org/model"})
    with pytest.raises(UserError, match=rf"{broken.name}, line 2") as caught:
        load_benchmark(sweep.data, redact=True)
    assert "Kalo" not in str(caught.value) and "Kalo" not in repr(vars(caught.value))


def test_items_of_passages_keep_numbers_and_lose_text():
    items = [
        {"id": "verbmem/1", "generated": SECRET, "rouge_l": 0.5, "rouge_l_f1": 0.25},
        {"id": "wmdp/1", "accuracy": 1.0},
    ]
    redacted = redact_parts({"test": {"verbmem": items}})["test"]["verbmem"]
    assert redacted == [items[0] | {"generated": hashed(SECRET)}, items[1]]


def test_items_keep_ids_and_numbers_and_lose_every_text():
    item = {
        "id": "forget:1",
        "probability": 0.5,
        "rouge_l": None,
        "right": True,
        "generated": SECRET,
        "later": [SECRET],
    }
    (redacted,) = redact_items([item])
    assert {key: redacted[key] for key in ("id", "probability", "rouge_l", "right")} == {
        "id": "forget:1",
        "probability": 0.5,
        "rouge_l": None,
        "right": True,
    }
    assert redacted["generated"] == hashed(SECRET) and SECRET not in json.dumps(redacted)


@pytest.mark.parametrize("redact", [True, False])
def test_written_measurement_holds_text_only_without_redaction(tmp_path, monkeypatch, redact):
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


def test_measurement_with_text_is_not_reused_by_a_sweep_with_redaction(tmp_path):
    sizes = {"people": 6, "forget_people": 2, "attributes": 1, "values": 3, "phrasings": 2}
    data = {"benchmark": "closed_world", **sizes}
    plain = plan_of(small_sweep(data=data, redact=False), tmp_path)
    redacted = plan_of(small_sweep(data=data, redact=True), tmp_path)
    assert plain.original.folder == redacted.original.folder
    assert plain.original.measurement != redacted.original.measurement
    assert [job.redact for job in redacted.measure] == [True, True]
