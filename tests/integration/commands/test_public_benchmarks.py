"""lm-eval on a model of a finished sweep, with a task made on the spot."""

import json

import mlflow
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from orchestrator.storage.sweep_folder import SweepFolder
from tests.support.processes.launch import lethe, lethe_here

QUESTIONS = [
    {
        "question": f"Where was person {number} born?",
        "choices": ["In Lima.", "In Oslo, I think.", "Nobody knows"],
        "label": number % 3,
    }
    for number in range(7)
]


@pytest.fixture
def tasks(tmp_path):
    """A folder with one multiple-choice task on a local file."""
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)))
    task = {
        "task": "birthplaces",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{label}}",
        "metric_list": [{"metric": "acc"}],
    }
    (tmp_path / "birthplaces.yaml").write_text(yaml.safe_dump(task))
    return tmp_path


def slow_accuracy(folder):
    """Share of questions whose right choice has the largest summed log-probability, one sequence at a
    time."""
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    right = 0
    for row in QUESTIONS:
        scores = []
        for choice in row["choices"]:
            prompt, whole = (
                tokenizer(text)["input_ids"] for text in (row["question"], f"{row['question']} {choice}")
            )
            with torch.no_grad():
                logp = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
            scores.append(
                sum(float(logp[place - 1, whole[place]]) for place in range(len(prompt), len(whole)))
            )
        right += max(range(3), key=scores.__getitem__) == row["label"]
    return right / len(QUESTIONS)


def test_member_of_the_front_is_set_beside_the_original_and_told_to_mlflow(finished, head, tasks):
    _, storage, _ = finished
    told = ("benchmark", "tiny", "--tasks", "birthplaces", "--task-folder", str(tasks), "--json")
    scores = json.loads(lethe(*told, storage=storage, **head.joined).stdout)
    folder = SweepFolder(storage, "tiny").path
    baselines = json.loads((folder / "baselines.json").read_text())
    (name,) = set(scores) - {"original"}
    trial, _, rung = name.partition("@")
    weights = sorted((folder / "trials" / trial / "weights").glob(f"rung{rung or '*'}"))[-1]
    assert scores["original"]["birthplaces/acc"] == pytest.approx(
        slow_accuracy(baselines["original"]["folder"])
    )
    assert scores[name]["birthplaces/acc"] == pytest.approx(slow_accuracy(weights))

    again = lethe_here(
        "benchmark", "tiny", "--tasks", "birthplaces", "--task-folder", str(tasks), storage=storage
    )
    assert "birthplaces/acc" in again.stdout and "±" in again.stdout
    ways = {f"{model}, limit None, tasks of {tasks}" for model in ("original", name)}
    assert set(json.loads((folder / "lm_eval.json").read_text())) == ways

    front = json.loads(lethe_here("front", "tiny", "--json", storage=storage).stdout)["front"]
    (run,) = {member["mlflow_run_id"] for member in front if member["trial_id"] == trial}
    client = mlflow.MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    assert client.get_run(run).data.metrics["lm_eval/birthplaces/acc"] == scores[name]["birthplaces/acc"]


def test_unknown_task_is_refused_before_anything_is_loaded(finished):
    _, storage, _ = finished
    refused = lethe_here("benchmark", "tiny", "--tasks", "birthplaces,arc_easy", storage=storage, check=False)
    assert refused.returncode == 2
    assert (
        "lm-eval knows no such task" in refused.stderr
        and "birthplaces" in refused.stderr
        and "arc_easy" not in refused.stderr
    )
