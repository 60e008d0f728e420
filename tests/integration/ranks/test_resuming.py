"""Trials whose workers are killed between two rungs go on from a checkpoint, bit for bit: two ZeRO-3 ranks,
no Ray."""

import json
import signal

from tests.support.processes.dying_rank import run_steps
from tests.support.processes.forked_ranks import start_ranks

# Four examples in batches of four: an epoch is a step. Beliefs of step 4 are those of step 7; rungs are after
# steps 4 and 8.
TRIAL = {
    "steps": 8,
    "rungs": 2,
    "forget": {"method": "npo"},
    "beliefs": "token+sequence",
    "sequence_belief": {"refresh_epochs": 4},
}
EVERY = 3
"""Checkpoints after steps 3 and 6; the trial dies in its last step, and repeats the one before."""
ENDS_AT = 7


def run(folder, *steps):
    """Run (job, how it ends) on two cold ranks. Returns: the results; None when a rank was killed."""
    folder.mkdir()
    listed = [{"job": job, "ends": ends} for job, ends in steps]
    ranks = start_ranks(2, run_steps, folder, listed, folder=folder)
    killed = [ends["kills"] for _, ends in steps if ends is not None and ends["kills"] is not None]
    for rank in killed:
        ranks[rank].join(300)
        assert ranks[rank].exitcode == -signal.SIGKILL
    for rank in ranks:
        # The others of a killed rank wait for it in a collective.
        rank.kill() if killed else rank.join(300)
        rank.join(10)
    if killed:
        return None
    assert [rank.exitcode for rank in ranks] == [0, 0], (folder / "rank0.txt").read_text()
    return json.loads((folder / "results.json").read_text())


def kept_in(folder, job):
    return job | {"checkpoint": str(folder), "checkpoint_steps": EVERY}


def warm(ranks, job):
    (result,) = ranks(2, [{"do": "job", "job": job}])
    return result


def path(result):
    """All that must not differ: weights, metrics, and what was told at the rungs."""
    told = [event for event in result["events"] if event["event"] in ("rung", "test")]
    return result["digest"], result["result"]["metrics"], result["result"]["status"], told


def log(result):
    return [
        event["line"]
        for event in result["events"]
        if "goes on" in event.get("line", "") or "checkpoint" in event.get("line", "")
    ]


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


WHOLE = ["step6", "step6/rank0.pt", "step6/rank1.pt", "step6/shared.json"]


def test_checkpoints_change_no_result_and_the_newest_one_stays(ranks, trial_job, tmp_path):
    job = trial_job(**TRIAL)
    plain, checked = warm(ranks, job), warm(ranks, kept_in(tmp_path, job))
    assert path(checked) == path(plain)
    assert names(tmp_path) == WHOLE and log(checked) == []
    assert checked["result"]["seconds"].keys() - plain["result"]["seconds"].keys() == {"checkpoints"}


def test_trial_in_bfloat16_goes_on_in_a_warm_lane(ranks, trial_job, tmp_path):
    """Working weights are half of the master weights there. What is left of a whole run stands for one that
    was cut off."""
    plain = trial_job(**TRIAL)
    plain["model"] = {**plain["model"], "dtype": "bfloat16"}
    whole, _, again = (
        warm(ranks, job) for job in (plain, kept_in(tmp_path, plain), kept_in(tmp_path, plain))
    )
    assert log(again) == ["goes on at step 6 of 8"]
    assert path(again) == path(whole)


def test_trials_cut_off_in_a_cold_and_in_a_warm_lane_go_on_in_a_warm_and_in_a_cold_one(
    ranks, trial_job, tmp_path
):
    first, second = trial_job(**TRIAL), trial_job(**TRIAL, seed=7)
    cold, hot = kept_in(tmp_path / "first", first), kept_in(tmp_path / "second", second)
    run(tmp_path / "killed", (cold, {"step": ENDS_AT, "kills": None}), (hot, {"step": ENDS_AT, "kills": 1}))
    assert names(tmp_path / "first") == names(tmp_path / "second") == WHOLE
    (result,) = run(tmp_path / "again", (hot, None))
    for found, job in ((warm(ranks, cold), first), (result, second)):
        assert log(found) == ["goes on at step 6 of 8"]
        assert path(found) == path(warm(ranks, job))
