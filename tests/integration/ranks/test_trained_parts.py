"""LoRA and partly frozen models under real ZeRO-3: the same promises as for whole models."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from search_spaces.catalogue.method_catalogue import METHODS
from tests.support.processes.rank_group import run_cold

LORA = {"lora": {"rank": 4, "alpha": 8.0}}
DOWN = r"model\.layers\.\d+\.mlp\.down_proj\.weight"


def job(body: dict, do: str = "job", **extra) -> dict:
    return {"do": do, "job": body, **extra}


def comparable(result: dict) -> tuple:
    return result["digest"], json.dumps(result["result"]["metrics"], sort_keys=True)


def method_trial(method: str) -> dict:
    return {
        "forget": {"method": method},
        "retain": {"loss": "activations" if METHODS[method].activations else "nll"},
    }


def test_every_method_trains_adapters_and_repeats_itself_in_one_lane(trial_job, ranks):
    steps = [job(trial_job(**method_trial(method), **LORA, steps=2, rungs=1)) for method in METHODS]
    results = ranks(2, steps + steps[::-1])
    first, second = results[: len(steps)], results[len(steps) :][::-1]
    assert [comparable(result) for result in first] == [comparable(result) for result in second]
    assert len({result["digest"] for result in first}) == len(steps), (
        "two different methods gave the same weights"
    )


def test_warm_trial_with_adapters_equals_cold_bit_for_bit_after_others_of_the_same_and_of_another_shape(
    trial_job, ranks, tmp_path
):
    wanted = job(trial_job(**LORA, beliefs="token+sequence", seed=3))
    other = job(trial_job(lora={"rank": 4, "alpha": 64.0}, forget={"method": "graddiff"}))
    whole = job(trial_job())
    (cold,) = run_cold(2, [wanted], tmp_path)
    first, _, _, again = ranks(2, [wanted, whole, other, wanted])
    assert comparable(cold) == comparable(first) == comparable(again)


def test_adapters_depend_on_the_seed_and_on_alpha(trial_job, ranks):
    scaled_lora = {"rank": 4, "alpha": 64.0}
    plain, seeded, scaled = ranks(
        2, [job(trial_job(**LORA)), job(trial_job(**LORA, seed=5)), job(trial_job(lora=scaled_lora))]
    )
    assert len({plain["digest"], seeded["digest"], scaled["digest"]}) == 3


def test_one_worker_two_workers_and_two_micro_batches_agree_with_adapters(trial_job, ranks):
    trials = [{**LORA, "beliefs": "token+sequence"}, {**LORA, "retain": {"loss": "kl"}}, {"trained": [DOWN]}]
    whole = [job(trial_job(**trial), "fixed_beliefs", steps=10) for trial in trials]
    halves = [
        job(trial_job(**trial, optimizer={"micro_batch": 2}), "fixed_beliefs", steps=10) for trial in trials
    ]
    one, two = ranks(1, whole + halves), ranks(2, whole)
    for wanted, found in zip(one[: len(trials)] * 2, one[len(trials) :] + two, strict=True):
        assert found["losses"][0] == pytest.approx(wanted["losses"][0], rel=1e-5)
        assert found["norms"][0] == pytest.approx(wanted["norms"][0], rel=1e-5)
        assert found["metrics"] == pytest.approx(wanted["metrics"], rel=1e-3, abs=1e-6)


def test_full_copy_and_lock_step_see_the_same_adapted_policy(trial_job, ranks):
    gathered, lockstep = ranks(
        2, [job(trial_job(**LORA)), job(trial_job(**LORA, engine={"inference": "lockstep"}))]
    )
    assert gathered["digest"] == lockstep["digest"]
    assert lockstep["result"]["metrics"] == pytest.approx(gathered["result"]["metrics"], rel=1e-4, abs=1e-6)


def test_kept_weights_are_merged_into_a_plain_hugging_face_folder(prepared, trial_job, ranks, tmp_path):
    (result,) = ranks(
        2, [job(trial_job(**LORA, optimizer={"learning_rate": 1e-2}) | {"weights": str(tmp_path)})]
    )
    folder = tmp_path / "rung2"
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, use_safetensors=True
    )
    assert not any(loading.values())
    digest = hashlib.sha256()
    for name, tensor in model.named_parameters():
        digest.update(name.encode())
        digest.update(tensor.detach().numpy().tobytes())
    assert digest.hexdigest() == result["digest"]
    before, after = load_file(prepared.target / "model.safetensors"), load_file(folder / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("_proj." in name for name in changed)
    for name in changed:
        assert torch.linalg.matrix_rank((after[name] - before[name]).double(), rtol=1e-3) <= 4


def test_only_named_parameters_move(prepared, trial_job, ranks, tmp_path):
    trials = {
        "npo": {},
        "rmu": {"forget": {"method": "rmu", "steering": {"layer": 1}}, "retain": {"loss": "activations"}},
    }
    steps = [
        job(trial_job(**trial, trained=[DOWN]) | {"weights": str(tmp_path / name)})
        for name, trial in trials.items()
    ]
    results = ranks(2, steps + steps)
    before = load_file(prepared.target / "model.safetensors")
    for name, first, again in zip(trials, results[:2], results[2:], strict=True):
        after = load_file(tmp_path / name / "rung2" / "model.safetensors")
        changed = {key for key in before if not torch.equal(before[key], after[key])}
        assert changed and all("down_proj" in key for key in changed)
        assert comparable(first) == comparable(again)
    assert not any("layers.2" in key or "layers.3" in key for key in changed), (
        "RMU reaches no layer above the steered one"
    )


def test_trial_with_adapters_goes_on_from_its_checkpoint_bit_for_bit(trial_job, ranks, tmp_path):
    (whole,) = ranks(2, [job(trial_job(**LORA))])
    kept = trial_job(**LORA) | {"checkpoint": str(tmp_path / "state"), "checkpoint_steps": 3}
    first, again = ranks(2, [job(kept), job(kept)])
    assert comparable(first) == comparable(whole)
    assert comparable(again)[0] == whole["digest"]
    assert any("goes on at step 3" in event.get("line", "") for event in again["events"])
