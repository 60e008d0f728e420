"""`lethe export` of a model of a finished sweep, and `lethe reproduce` of one of its trials."""

import json

import mlflow
import pytest
import yaml

from tests.support.processes.launch import lethe, lethe_here
from tests.support.sweeps.small_sweeps import child_runs, front_of, load_study


def last_line_of(done, start):
    return next(line for line in done.stdout.splitlines() if line.startswith(start))


def test_exported_member_loads_with_its_evidence_and_is_registered(finished, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, storage, _ = finished
    output = tmp_path / "out" / "model"
    done = lethe("export", "tiny", str(output), "--trial", "knee", "--register", "forgetful", storage=storage)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(output), AutoTokenizer.from_pretrained(output)
    assert model.config.vocab_size >= len(tokenizer)
    assert (output / "model.safetensors").is_file()
    evidence = json.loads((output / "lethe_evidence.json").read_text())
    front = front_of(storage, "tiny")["front"]
    member = next(member for member in front if member["name"] == evidence["trial"])
    objectives = {name: evidence["metrics"][f"test/{name}"] for name in member["objectives"]}
    assert objectives == member["objectives"]
    assert set(evidence["baselines"]) == {"original", "prompted", "retrained"}
    card = (output / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["tags"] == ["unlearning", "lethe"]
    assert evidence["data_digest"] in card and evidence["versions"]["version.torch"] in card
    assert evidence["versions_when"] == "at the sweep"
    client = mlflow.MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    version = client.get_model_version("forgetful", last_line_of(done, "registered: ").rpartition("/")[2])
    assert version.run_id == member["mlflow_run_id"]
    assert version.tags["lethe.trial"] == member["trial_id"]
    assert version.tags["lethe.rung"] == str(member["rung"])
    assert f"test.{next(iter(member['objectives']))}" in version.tags
    fetched = mlflow.artifacts.download_artifacts(version.source, dst_path=str(tmp_path))
    AutoModelForCausalLM.from_pretrained(fetched)
    refused = lethe_here("export", "tiny", str(output), storage=storage, check=False)
    assert refused.returncode == 2 and "is not empty" in refused.stderr


@pytest.fixture(scope="module")
def dropped(finished):
    """The name of a rung without kept weights, such as `t0003@1`."""
    _, storage, _ = finished
    rungs = [(f"t{number:04d}", rung) for number in range(5) for rung in (1, 2)]
    trials = storage / "tiny" / "trials"
    return next(
        f"{trial}@{rung}"
        for trial, rung in rungs
        if not (trials / trial / "weights" / f"rung{rung}").is_dir()
    )


@pytest.fixture
def elsewhere(finished, tmp_path):
    """A storage folder without the sweep, but with its prepared models, which would be trained again."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "models").symlink_to(finished[1] / "models")
    return folder


def test_trial_from_mlflow_is_identical_and_its_dropped_weights_come_back(
    finished, head, dropped, elsewhere, tmp_path
):
    from transformers import AutoModelForCausalLM

    _, storage, _ = finished
    refused = lethe_here(
        "export", "tiny", str(tmp_path / "no"), "--trial", dropped, storage=storage, check=False
    )
    assert refused.returncode == 2
    assert f"lethe reproduce tiny {dropped} --weights FOLDER" in refused.stderr
    study = (storage / "tiny" / "study.journal").read_bytes()
    runs = len(child_runs(storage, "tiny"))
    weights, uri = tmp_path / "weights", f"sqlite:///{storage / 'mlflow.db'}"
    options = ("--weights", str(weights), "--tracking-uri", uri)
    done = lethe("reproduce", "tiny", dropped, *options, storage=elsewhere, **head.joined)
    assert f"{dropped[:5]} is identical: " in done.stdout and "at 2 rungs, bit for bit" in done.stdout
    assert "differs from the sweep" not in done.stdout.replace("differs from the sweep: git.", "")
    AutoModelForCausalLM.from_pretrained(weights / f"rung{dropped[-1]}")
    assert not (elsewhere / "tiny").exists()
    assert (storage / "tiny" / "study.journal").read_bytes() == study
    assert len(child_runs(storage, "tiny")) == runs == len(load_study(storage, "tiny").get_trials())


@pytest.mark.soak
def test_trial_from_the_journal_on_other_workers_says_what_differs(finished, head):
    _, storage, _ = finished
    done = lethe("reproduce", "tiny", "t0001", "--workers", "1", storage=storage, check=False, **head.joined)
    assert "differs from the sweep: workers: 2 -> 1" in done.stdout, done.stdout + done.stderr
    identical = "t0001 is identical" in done.stdout
    assert done.returncode == (0 if identical else 1)
    assert identical or "largest difference: " in done.stdout
