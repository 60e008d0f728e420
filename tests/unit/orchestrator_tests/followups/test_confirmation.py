import json
from dataclasses import replace

import pytest

from orchestrator.followups.confirmation import (
    Repetition,
    confirmation_seeds,
    plan_repetitions,
    repetition_job,
    run_repetitions,
)
from orchestrator.lanes.job_queue import LostError
from orchestrator.pareto.front import build_front
from orchestrator.pareto.objectives import criteria_of
from orchestrator.storage.baselines import plan_baselines
from orchestrator.storage.followup_records import Confirmation, read_confirmations
from orchestrator.storage.sweep_folder import SweepFolder
from search_spaces.user_errors import UserError
from tests.support.sweeps.finished_sweep import records, sweep
from tests.support.sweeps.sweep_on_disk import measured

WORLD = {
    "benchmark": "closed_world",
    "people": 6,
    "forget_people": 2,
    "attributes": 1,
    "values": 3,
    "phrasings": 2,
}
SWEEP = sweep(data=WORLD)
MEMBERS = build_front(records(), criteria_of(SWEEP)).members[:2]


class Pool:
    """Runs a job when its outcome is asked for, as `outcomes` says: reason of a failure, or what takes the
    place of the result."""

    def __init__(self, outcomes=None):
        self.jobs, self.waited, self.outcomes = {}, [], outcomes or {}

    def submit(self, ticket, job):
        self.jobs[ticket] = job

    def wait(self, ticket, on_tick):
        self.waited.append((ticket, len(self.jobs)))
        on_tick({"step": 1, "steps": 2, "loss": 0.1})
        outcome = self.outcomes.get(ticket)
        if isinstance(outcome, UserError):
            raise outcome
        if isinstance(outcome, str):
            raise UserError(f"{ticket} failed: {outcome}")
        seed = self.jobs[ticket].trial.seed
        return {
            "status": "stopped",
            "metrics": outcome or measured(0.1 * seed, 0.5),
            "seconds": {"steps": 1.5, "evaluation": 0.5},
        }


def ran(root, repetitions, pool=None, *, stop_after=None):
    """Returns: folder, pool and lines said."""
    folder, pool, told = SweepFolder(root, SWEEP.name), pool or Pool(), []

    def say(line):
        told.append(line)
        if len(told) == stop_after:
            folder.stop_request.touch()

    plan = plan_baselines(SWEEP, folder.models)
    run_repetitions(repetitions, SWEEP, plan, pool, folder, say, lambda name, progress: None)
    return folder, pool, told


def planned(seeds=2, known=()):
    return plan_repetitions(MEMBERS, confirmation_seeds(SWEEP, seeds), known)


def named(*repetitions):
    return [repetition.name for repetition in repetitions]


@pytest.mark.parametrize(
    ("more", "first"),
    [
        ({}, 1),
        ({"trial": {"seed": 40}}, 41),
        ({"trial": {"seed": -3}}, -2),
        ({"space": {"seed": {"int": [0, 9]}}}, 10),
        ({"space": {"seed": {"choice": [3, 17, 5]}}, "trial": {"seed": 20}}, 21),
    ],
)
def test_seeds_are_never_those_of_the_search_and_more_of_them_begin_with_the_same(more, first):
    settings = sweep(**more)
    assert list(confirmation_seeds(settings, 3)) == [first, first + 1, first + 2]
    assert confirmation_seeds(settings, 5)[:3] == confirmation_seeds(settings, 3)


def test_repetitions_complete_one_seed_after_another_and_leave_out_what_is_there():
    one, two = (member.name for member in MEMBERS)
    assert named(*planned()) == [f"{one} seed 1", f"{two} seed 1", f"{one} seed 2", f"{two} seed 2"]
    failed = Confirmation(*MEMBERS[0].key, 1, one, {}, "out of memory")
    assert named(*planned(known=[failed])) == [f"{two} seed 1", f"{one} seed 2", f"{two} seed 2"]


def test_job_repeats_the_full_schedule_under_the_seed_up_to_the_rung(tmp_path):
    member = replace(MEMBERS[0], rung=2)
    plan = plan_baselines(SWEEP, tmp_path)
    job = repetition_job(Repetition(member, 7), SWEEP, plan)
    assert (job.trial.seed, job.stop_at_rung, job.trial.epochs, job.trial.rungs) == (
        7,
        2,
        SWEEP.trial.epochs,
        SWEEP.trial.rungs,
    )
    assert job.trial.forget.method == member.record.params["forget.method"]
    assert job.folder == plan.original.folder and job.weights is None


def test_all_repetitions_are_queued_before_the_first_is_waited_for(tmp_path):
    _, pool, _ = ran(tmp_path, planned())
    assert pool.waited == [(name, 4) for name in named(*planned())]


def test_results_are_read_back_as_they_came(tmp_path):
    folder, _, told = ran(tmp_path, planned())
    found = read_confirmations(folder)
    assert found[0] == Confirmation(*MEMBERS[0].key, 1, MEMBERS[0].name, measured(0.1, 0.5), spent_s=2.0)
    assert [one.name for one in found] == named(*planned())
    assert told[0] == f"{MEMBERS[0].name} seed 1 [1/4]: forget_true_mass 0.100, utility 0.500 (2.0 s)"


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        ("loss is NaN at step 3", "loss is NaN at step 3"),
        (measured(float("nan"), 0.5), "not a finite number: test/forget_true_mass = nan"),
    ],
)
def test_failed_repetition_is_kept_with_its_reason_and_the_rest_goes_on(tmp_path, outcome, reason):
    first, *rest = planned()
    folder, _, told = ran(tmp_path, planned(), Pool({first.name: outcome}))
    failed, *others = read_confirmations(folder)
    assert failed.key == first.key and failed.reason.startswith(reason) and not failed.metrics
    assert [one.reason for one in others] == [None] * len(rest)
    assert told[0].startswith(f"{first.name} [1/4]: failed: {reason}")


def test_lost_lanes_are_no_failure_and_the_next_call_goes_on(tmp_path):
    first, second, *rest = planned()
    pool = Pool({second.name: LostError("no lane is left")})
    with pytest.raises(
        LostError, match=r"3 repetitions are missing: no lane is left.*run the same command again"
    ):
        ran(tmp_path, planned(), pool)
    known = read_confirmations(SweepFolder(tmp_path, SWEEP.name))
    assert [one.key for one in known] == [first.key]
    folder, _, _ = ran(tmp_path, planned(known=known))
    assert [one.name for one in read_confirmations(folder)] == named(first, second, *rest)


def test_stop_request_ends_after_the_current_repetition_and_an_old_one_is_forgotten(tmp_path):
    folder, _, told = ran(tmp_path, planned(), stop_after=1)
    assert len(read_confirmations(folder)) == 1 and "3 repetitions left" in told[-1]
    ran(tmp_path, planned(known=read_confirmations(folder)))
    assert len(read_confirmations(folder)) == 4


def test_file_is_whole_after_every_result(tmp_path):
    folder = SweepFolder(tmp_path, SWEEP.name)
    counts = []

    class Looking(Pool):
        def wait(self, ticket, on_tick):
            file = folder.path / "confirmations.json"
            counts.append(len(json.loads(file.read_text())) if file.is_file() else 0)
            return super().wait(ticket, on_tick)

    ran(tmp_path, planned(), Looking())
    assert counts == [0, 1, 2, 3]
