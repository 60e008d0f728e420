"""Metrics that must be asked for, through the real engine: sharded or gathered, one worker or two."""

import json

import pytest

from tests.support.training.text_classifier import write_classifier


@pytest.fixture(scope="module")
def asked(prepared, tmp_path_factory):
    """Builds a trial job on text of one's own, with an evaluation block."""
    folder = tmp_path_factory.mktemp("own")
    for name in ("forget", "retain", "holdout"):
        rows = [
            {"prompt": f"Where was {name} {number} born?", "response": f"In the {name} city {number}."}
            for number in range(6)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {
        "benchmark": "local_files",
        **{name: str(folder / f"{name}.jsonl") for name in ("forget", "retain", "holdout")},
    }

    def build(inference="gathered", **evaluation):
        trial = {
            "steps": 2,
            "optimizer": {"global_batch": 4, "warmup_epochs": 0},
            "forget": {"method": "graddiff"},
        }
        trial["engine"] = {"inference": inference}
        job = {
            "kind": "trial",
            "folder": str(prepared.target),
            **prepared.common,
            "data": data,
            "trial": trial,
        }
        return {"do": "job", "job": job | {"evaluation": evaluation}}

    return build


def test_perplexity_under_the_original_is_the_same_however_the_models_are_opened(asked, ranks):
    steps = [asked(fluency="perplexity"), asked("lockstep", fluency="perplexity"), asked()]
    gathered, lockstep, plain = (result["result"]["metrics"] for result in ranks(2, steps))
    (alone,) = (result["result"]["metrics"] for result in ranks(1, steps[:1]))
    assert {"test/generated_perplexity", "validation/generated_perplexity"} == set(gathered) - set(plain)
    assert gathered == pytest.approx(lockstep, rel=1e-4)
    assert gathered == pytest.approx(alone, rel=1e-4)
    assert gathered["test/generated_perplexity"] > 1


def test_judge_and_gradient_norms_change_nothing_else(asked, ranks, tmp_path):
    judge = str(write_classifier(tmp_path / "judge", {0: "clean", 1: "noise"}))
    one, two, plain = ranks(
        2, [step := asked(fluency="gibberish", gibberish_model=judge, gradient_norm=True), step, asked()]
    )
    assert (
        one["digest"] == two["digest"] == plain["digest"]
        and one["result"]["metrics"] == two["result"]["metrics"]
    )
    metrics = one["result"]["metrics"]
    added = {
        f"{part}/{name}"
        for part in ("validation", "test")
        for name in ("fluency", "util", "agg", "mia_gradient_norm")
    }
    assert set(metrics) - set(plain["result"]["metrics"]) == added
    assert {name: metrics[name] for name in plain["result"]["metrics"]} == plain["result"]["metrics"]


def test_likelihood_bands_are_searched_once_and_followed_at_every_rung(prepared, trial_job, ranks, tmp_path):
    evaluation = {"bands": 6}
    original = str(tmp_path / "original.json")
    measure = {
        "kind": "evaluate",
        "name": "original",
        "folder": str(prepared.target),
        "output": original,
        "likelihood_bands": True,
    }
    trial = trial_job(forget={"method": "graddiff"}) | {"original": original, "evaluation": evaluation}
    steps = [
        {"do": "job", "job": measure | prepared.common | {"evaluation": evaluation}},
        {"do": "job", "job": trial},
    ]
    measured, two = ranks(2, steps)
    (one,) = ranks(1, steps[1:])
    names = {f"bands/{name}_nats" for name in ("target", "rephrasing", "high_band", "mid_band", "low_band")}
    before = {
        name: value for name, value in measured["result"]["metrics"].items() if name.startswith("bands/")
    }
    rungs = [event["metrics"] for event in two["events"] if event["event"] == "rung"]
    assert before.keys() == names and len(rungs) == 2
    assert all(names <= rung.keys() for rung in rungs)
    assert before["bands/high_band_nats"] > before["bands/mid_band_nats"] > before["bands/low_band_nats"]
    assert rungs[-1]["bands/target_nats"] < before["bands/target_nats"]
    assert {name: one["result"]["metrics"][name] for name in names} == pytest.approx(
        {name: rungs[-1][name] for name in names}, rel=1e-4
    )
