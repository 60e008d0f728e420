import json
from dataclasses import replace

import pytest

from orchestrator.followups.confirmation import (
    Repetition,
    RepetitionTask,
    confirmation_seeds,
    plan_repetitions,
)
from orchestrator.lanes.job_batch import JobBatch
from orchestrator.lanes.job_queue import LostError
from orchestrator.pareto.front import build_front
from orchestrator.pareto.objectives import criteria_of
from orchestrator.storage.followup_records import Confirmation, read_confirmations
from orchestrator.storage.sweep_folder import SweepFolder
from tests.support.local_lanes import LocalLanes, Observer, plan_of
from tests.support.sweeps.finished_sweep import records, sweep
from tests.support.sweeps.sweep_on_disk import measured
from trainables.events import Failed, Lost, Stopped

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


def ended(outcomes=None):
    """How jobs end, by name: the reason of a failure, an outcome, or what takes the place of the metrics."""

    def end(name, job):
        outcome = (outcomes or {}).get(name)
        if isinstance(outcome, str):
            return Failed(outcome)
        if isinstance(outcome, Lost):
            return outcome
        metrics = outcome or measured(0.1 * job.trial.seed, 0.5)
        return Stopped("ended", {"metrics": metrics, "seconds": {"steps": 1.5, "evaluation": 0.5}})

    return end


def run(root, repetitions, lanes=None, *, stop_after=None):
    """Returns: folder, lanes and lines said."""
    folder, lanes = SweepFolder(root, SWEEP.name), lanes or LocalLanes(ended())

    def on_line(lines):
        if len(lines) == stop_after:
            folder.stop_request.touch()

    observer, plan = Observer(on_line), plan_of(SWEEP, folder.models)
    tasks = [RepetitionTask(repetition, SWEEP, plan, folder) for repetition in repetitions]
    JobBatch("repetitions", folder.driver_log, "confirming", folder.stop_request).run(tasks, lanes, observer)
    return folder, lanes, observer.lines


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
    plan = plan_of(SWEEP, tmp_path)
    job = RepetitionTask(Repetition(member, 7), SWEEP, plan, SweepFolder(tmp_path, SWEEP.name)).job()
    assert (job.trial.seed, job.stop_at_rung, job.trial.epochs, job.trial.rungs) == (
        7,
        2,
        SWEEP.trial.epochs,
        SWEEP.trial.rungs,
    )
    assert job.trial.forget.method == member.record.params["forget.method"]
    assert job.folder == plan.original.folder and job.weights is None


def test_all_repetitions_are_queued_before_the_first_is_waited_for(tmp_path):
    _, lanes, _ = run(tmp_path, planned())
    assert lanes.ended == [(name, 4) for name in named(*planned())]


def test_results_are_read_back_as_they_came(tmp_path):
    folder, _, told = run(tmp_path, planned())
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
    folder, _, told = run(tmp_path, planned(), LocalLanes(ended({first.name: outcome})))
    failed, *others = read_confirmations(folder)
    assert failed.key == first.key and failed.reason.startswith(reason) and not failed.metrics
    assert [one.reason for one in others] == [None] * len(rest)
    assert told[0].startswith(f"{first.name} [1/4]: failed: {reason}")


def test_lost_lanes_are_no_failure_and_the_next_call_goes_on(tmp_path):
    first, second, *rest = planned()
    lost = Lost("no lane is left")
    lanes = LocalLanes(ended({one.name: lost for one in (second, *rest)}))
    with pytest.raises(
        LostError, match=r"3 repetitions are missing: no lane is left.*run the same command again"
    ):
        run(tmp_path, planned(), lanes)
    known = read_confirmations(SweepFolder(tmp_path, SWEEP.name))
    assert [one.key for one in known] == [first.key]
    folder, _, _ = run(tmp_path, planned(known=known))
    assert [one.name for one in read_confirmations(folder)] == named(first, second, *rest)


def test_stop_request_ends_after_the_current_repetition_and_an_old_one_is_forgotten(tmp_path):
    folder, _, told = run(tmp_path, planned(), stop_after=1)
    assert len(read_confirmations(folder)) == 1 and "3 repetitions left" in told[-1]
    run(tmp_path, planned(known=read_confirmations(folder)))
    assert len(read_confirmations(folder)) == 4


def test_file_is_whole_after_every_result(tmp_path):
    folder = SweepFolder(tmp_path, SWEEP.name)
    counts = []

    class Looking(LocalLanes):
        def news(self, seen):
            file = folder.path / "confirmations.json"
            counts.append(len(json.loads(file.read_text())) if file.is_file() else 0)
            return super().news(seen)

    run(tmp_path, planned(), Looking(ended()))
    assert counts == [0, 1, 2, 3]


@pytest.mark.parametrize("lost", [False, True], ids=["killed", "lost"])
def test_a_repetition_that_ends_before_an_earlier_one_is_kept_at_once(tmp_path, lost):
    """With several lanes the second may end first; it survives whatever becomes of the first."""
    first, *others = planned()

    class KilledDriver(LocalLanes):
        def news(self, seen):
            if list(seen) == [first.name] and not lost:
                raise KeyboardInterrupt
            return super().news(seen)

    gone = {first.name: Lost("no lane is left")} if lost else {}
    lanes = KilledDriver(ended(gone), order=named(*others))
    with pytest.raises(LostError if lost else KeyboardInterrupt):
        run(tmp_path, planned(), lanes)
    kept = read_confirmations(SweepFolder(tmp_path, SWEEP.name))
    assert [one.name for one in kept] == named(*others)
    assert named(*planned(known=kept)) == [first.name]
