"""`lethe audit` on the front of a finished sweep, and on the folder of a model."""

import json

import mlflow
import pytest

from tests.support.processes.launch import lethe, lethe_here
from tests.support.sweeps.small_sweeps import child_runs, front_of, write_sweep

PROBES = "leak,quantise"
FEW = ("--set", "evaluation.probe.leak.samples=4", "--set", "evaluation.probe.leak.k=2")


@pytest.fixture(scope="module")
def audited(finished, head):
    _, storage, _ = finished
    done = lethe("audit", "tiny", "--probes", PROBES, *FEW, "--json", storage=storage, **head.joined)
    return storage, done


def test_front_is_audited_beside_the_original_and_the_retrained_model(audited):
    storage, done = audited
    found = json.loads(done.stdout)
    members = [member["name"] for member in front_of(storage, "tiny")["front"]]
    assert [audit["name"] for audit in found] == ["original", "retrained", *members]
    measured = {
        "test/forget_told",
        "test/leak_at_k",
        "test/int8_told",
        "test/int4_told",
        "test/int4_forget_true_mass",
        "test/utility",
    }
    for audit in found:
        assert measured <= audit["metrics"].keys() and "test/relearned_told" not in audit["metrics"]
        assert audit["facts"] > 0 and len(audit["hidden_facts"]) <= audit["facts"]


def test_second_call_runs_nothing_and_prints_the_same(audited):
    storage, done = audited
    again = lethe_here("audit", "tiny", "--probes", PROBES, *FEW, "--json", storage=storage)
    assert "starting Ray" in done.stderr and "starting Ray" not in again.stderr
    assert again.stdout == done.stdout


def test_leaderboard_report_and_mlflow_have_it(audited):
    storage, _ = audited
    front = front_of(storage, "tiny")
    assert {"original", "retrained"} < front["audits"].keys()
    assert "worst probe" in lethe_here("front", "tiny", storage=storage, COLUMNS="220").stdout
    assert "leak@k" in lethe_here("front", "tiny", "--csv", storage=storage).stdout.splitlines()[0]
    assert "Is it really forgotten?" in (storage / "tiny" / "report.html").read_text()
    runs = child_runs(storage, "tiny", kind="audit")
    assert {run.data.tags["lethe.audits"] for run in runs} == front["audits"].keys()
    assert all("test/leak_at_k" in run.data.metrics and run.info.status == "FINISHED" for run in runs)
    client = mlflow.MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    parent = client.get_run(runs[0].data.tags["mlflow.parentRunId"])
    assert "leak@k" in parent.data.tags["mlflow.note.content"]


@pytest.mark.soak
def test_folder_of_a_model_is_audited_with_the_data_of_a_file(finished, head, tmp_path):
    file, storage, _ = finished
    model = json.loads((storage / "tiny" / "baselines.json").read_text())["original"]["folder"]
    options = ("--data", str(file), "--probes", "leak", *FEW, "--json")
    done = lethe("audit", "--model", model, *options, storage=storage, **head.joined)
    (found,) = json.loads(done.stdout)
    assert found["name"] == model and "test/leak_at_k" in found["metrics"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tiny", "--probes", "telepathy"), "no such probe"),
        (("tiny", "--probes", "judge"), "the probe `judge` needs a judge"),
        (("tiny", "--set", "trial.steps=3"), "an audit can change probe settings only"),
        (("tiny", "--trial", "t0099"), "no such trial"),
        (("--model", "x"), "the data is missing"),
        ((), "give one of the two"),
    ],
)
def test_mistake_is_one_message(finished, arguments, message):
    _, storage, _ = finished
    refused = lethe_here("audit", *arguments, storage=storage, check=False)
    assert refused.returncode == 2 and message in refused.stderr


@pytest.mark.soak
def test_probe_is_an_objective_and_a_constraint(finished, head, tmp_path):
    _, storage, _ = finished
    file = write_sweep(
        tmp_path,
        name="probing",
        evaluation={
            "probes": ["leak", "relearn"],
            "probe": {"leak": {"samples": 4, "k": 2}, "relearn": {"steps": 2, "learning_rate": 1e-3}},
        },
        objectives={
            "leak_at_k": {"direction": "minimize", "reference": 1.01},
            "utility": {"direction": "maximize", "reference": -0.01},
        },
        constraints={"relearned_told": {"at_most": 1.0}},
        search={"trials": 2, "sampler": "random"},
    )
    lethe("run", str(file), storage=storage, **head.joined)
    front = front_of(storage, "probing")
    assert front["front"] and front["failed"] == 0
    assert {objective["name"] for objective in front["objectives"]} == {"leak_at_k", "utility"}
