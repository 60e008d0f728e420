"""The trial core on ranks without Ray: sharding, warm against cold, one worker against two.

The ranks are warm ones that all tests share, except where cold ones are the point.
"""

import hashlib
import json

import pytest
from transformers import AutoModelForCausalLM

from search_spaces.catalogue.method_catalogue import METHODS
from tests.support.processes.rank_group import run_cold

BELIEFS = ["none", "token", "sequence", "token+sequence"]
KINDS = [
    (name, beliefs)
    for name, info in METHODS.items()
    for beliefs in BELIEFS
    if info.token_beliefs or "token" not in beliefs
]
FAILING = {
    "forget": {"method": "graddiff", "weight": 1.0},
    "optimizer": {"learning_rate": 1e6, "gradient_clip": 0.0},
}


def job(do: str, body: dict, **extra) -> dict:
    return {"do": do, "job": body, **extra}


def trial_of(method: str, beliefs: str, retain: str = "nll", **changes) -> dict:
    """Blocks of a trial; methods on activations hold activations."""
    retain = "activations" if METHODS[method].activations else retain
    return {"forget": {"method": method}, "beliefs": beliefs, "retain": {"loss": retain}, **changes}


def comparable(result: dict) -> tuple:
    return result["digest"], json.dumps(result["result"]["metrics"], sort_keys=True)


def test_preparing_teaches_the_closed_world(prepared):
    metrics = prepared.measure["result"]["metrics"]
    assert metrics["validation/forget_true_mass"] > 0.5
    assert metrics["test/retain_true_mass"] > 0.5
    assert (prepared.target / "model.safetensors").is_file()


def test_zero3_keeps_about_half_of_the_parameters_on_each_of_two_ranks(trial_job, ranks):
    (result,) = ranks(2, [job("memory", trial_job())])
    for resident in result["resident"]:
        assert 0.45 < resident / result["model"] < 0.55


def test_saved_policy_is_a_hugging_face_folder_with_the_same_weights(trial_job, ranks, tmp_path):
    (saved,) = ranks(2, [job("save", trial_job(), folder=str(tmp_path / "saved"))])
    model, loading = AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", output_loading_info=True, use_safetensors=True
    )
    assert not any(loading.values())
    digest = hashlib.sha256()
    for name, tensor in model.named_parameters():
        digest.update(name.encode())
        digest.update(tensor.detach().numpy().tobytes())
    assert digest.hexdigest() == saved["digest"]


def test_warm_trial_equals_cold_trial_bit_for_bit_when_others_and_a_failed_one_came_before(
    trial_job, ranks, tmp_path
):
    check_warm_equals_cold(
        {"forget": {"method": "npo"}, "beliefs": "token+sequence"}, trial_job, ranks, tmp_path
    )


@pytest.mark.soak
@pytest.mark.parametrize(("method", "beliefs"), KINDS)
@pytest.mark.parametrize("retain", ["nll", "kl"])
def test_warm_trial_equals_cold_trial_bit_for_bit_for_every_method(
    method, beliefs, retain, trial_job, ranks, tmp_path
):
    check_warm_equals_cold(trial_of(method, beliefs, retain), trial_job, ranks, tmp_path)


def check_warm_equals_cold(trial, trial_job, ranks, tmp_path):
    wanted = job("job", trial_job(**trial))
    other = job(
        "job",
        trial_job(
            forget={"method": "graddiff"},
            beliefs="sequence",
            seed=7,
            optimizer={"beta1": 0.8, "gradient_clip": 0.5},
        ),
    )
    failing = job("job", trial_job(**FAILING))
    (cold,) = run_cold(2, [wanted], tmp_path)
    _, failed, warm = ranks(2, [other, failing, wanted])
    assert "lower optimizer.learning_rate" in failed["failed"]
    assert comparable(cold) == comparable(warm)


def test_every_method_and_belief_trains_and_repeats_itself_in_one_lane(trial_job, ranks):
    trials = {kind: trial_of(*kind, steps=2, rungs=1) for kind in KINDS}
    trials["second order"] = trial_of("npo", "none", steps=2, rungs=1, optimizer={"method": "second_order"})
    steps = [job("job", trial_job(**trial)) for trial in trials.values()]
    # Each method again with the last kind of beliefs that it takes, after all others.
    again = list({kind[0]: number for number, kind in enumerate(trials)}.values())
    results = ranks(2, steps + [steps[number] for number in again])
    first, second = results[: len(steps)], results[len(steps) :]
    assert [comparable(first[number]) for number in again] == [comparable(result) for result in second]
    digests = {kind: result["digest"] for kind, result in zip(trials, first, strict=True)}
    assert len(set(digests.values())) == len(digests), "two different methods gave the same weights"


def test_one_worker_two_workers_and_two_micro_batches_agree(trial_job, ranks):
    trials = [
        {"forget": {"method": "npo"}, "beliefs": "token+sequence"},
        {"forget": {"method": "graddiff"}, "retain": {"loss": "kl"}},
    ]
    check_worker_counts_agree(trials, trial_job, ranks)


def test_one_worker_two_workers_and_two_micro_batches_agree_for_every_method_in_short(trial_job, ranks):
    check_worker_counts_agree([trial_of(method, "sequence") for method in METHODS], trial_job, ranks, steps=3)


@pytest.mark.soak
@pytest.mark.parametrize(("method", "beliefs"), KINDS)
def test_one_worker_two_workers_and_two_micro_batches_agree_for_every_method(
    method, beliefs, trial_job, ranks
):
    check_worker_counts_agree([trial_of(method, beliefs)], trial_job, ranks)


def check_worker_counts_agree(trials, trial_job, ranks, steps=20):
    """The first loss and gradient norm to 1e-5, metrics at the end to 1e-3, all with the beliefs of the first
    refresh."""
    whole = [job("fixed_beliefs", trial_job(**trial), steps=steps) for trial in trials]
    halves = [
        job("fixed_beliefs", trial_job(**{**trial, "optimizer": {"micro_batch": 2}}), steps=steps)
        for trial in trials
    ]
    one = ranks(1, whole + halves)
    two = ranks(2, whole)
    expected, halved = one[: len(trials)], one[len(trials) :]
    for wanted, found in zip(expected * 2, halved + two, strict=True):
        assert found["losses"][0] == pytest.approx(wanted["losses"][0], rel=1e-5)
        assert found["norms"][0] == pytest.approx(wanted["norms"][0], rel=1e-5)
        assert found["metrics"] == pytest.approx(wanted["metrics"], rel=1e-3, abs=1e-6)


def test_first_beliefs_are_the_same_for_any_number_of_workers_and_batch_size(trial_job, ranks):
    step = job("beliefs", trial_job())
    small = job("beliefs", trial_job(engine={"evaluation_batch": 2}))
    lockstep = job("beliefs", trial_job(engine={"inference": "lockstep"}))
    one = ranks(1, [step, small])
    two = ranks(2, [step, small, lockstep])
    assert one[0]["beliefs"]
    assert all(result["beliefs"] == one[0]["beliefs"] for result in [*one, *two])


def test_activation_checkpointing_and_lockstep_change_no_result(trial_job, ranks):
    plain = job("job", trial_job(beliefs="token+sequence"))
    checkpointed = job("job", trial_job(beliefs="token+sequence", engine={"activation_checkpointing": True}))
    lockstep = job("job", trial_job(beliefs="token+sequence", engine={"inference": "lockstep"}))
    first, second, third, again = ranks(2, [plain, checkpointed, lockstep, plain])
    assert comparable(first) == comparable(again)
    for other in (second, third):
        assert other["result"]["metrics"] == pytest.approx(first["result"]["metrics"], rel=1e-4, abs=1e-6)


def test_trial_that_ends_at_a_rung_is_the_full_trial_up_to_there(trial_job, ranks, tmp_path):
    """The schedule stays that of the full trial, the weights of the rung are written, and the lane goes
    on."""
    whole = trial_job(beliefs="sequence") | {"weights": str(tmp_path / "whole")}
    ended = whole | {"weights": str(tmp_path / "ended"), "stop_at_rung": 1}
    full, short, again = ranks(2, [job("job", whole), job("job", ended), job("job", whole)])
    first_rung = next(event for event in full["events"] if event["event"] == "rung")
    assert (short["result"]["status"], full["result"]["status"]) == ("stopped", "finished")
    assert {key: short["result"]["metrics"][key] for key in first_rung["metrics"]} == first_rung["metrics"]
    assert "test/forget_true_mass" in short["result"]["metrics"]
    assert [path.name for path in (tmp_path / "ended").iterdir()] == ["rung1"]
    assert [path.name for path in (tmp_path / "whole").iterdir()] == ["rung2"]
    assert comparable(full) == comparable(again)


def test_bfloat16_trial_runs_and_repeats_itself(trial_job, ranks):
    """Another precision is another engine; the ranks that had one of float32 before go on."""
    body = trial_job(beliefs="token")
    body["model"] = {**body["model"], "dtype": "bfloat16"}
    first, second = ranks(2, [job("job", body), job("job", body)])
    assert comparable(first) == comparable(second)
