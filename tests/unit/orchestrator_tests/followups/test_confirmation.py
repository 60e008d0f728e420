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


def ending_as(outcomes=None):
    """Returns the function by which lanes end jobs.

    Args:
        outcomes: Job name -> reason of a failure, whole outcome, or metrics; others end with made-up ones.
    """

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
    """Runs repetitions, stopped after `stop_after` lines. Returns: folder, lanes, printed lines."""
    folder, lanes = SweepFolder(root, SWEEP.name), lanes or LocalLanes(ending_as())

    def on_line(lines):
        if len(lines) == stop_after:
            folder.stop_request.touch()

    observer, plan = Observer(on_line), plan_of(SWEEP, folder.models)
    tasks = [RepetitionTask(repetition, SWEEP, plan, folder) for repetition in repetitions]
    JobBatch("repetitions", folder.driver_log, "confirming", folder.stop_request).run(tasks, lanes, observer)
    return folder, lanes, observer.lines


def repetitions_left(seeds=2, known=()):
    return plan_repetitions(MEMBERS, confirmation_seeds(SWEEP, seeds), known)


def names(repetitions):
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


def test_repetitions_complete_one_seed_after_another_and_leave_out_what_exists():
    one, two = (member.name for member in MEMBERS)
    assert names(repetitions_left()) == [f"{one} seed 1", f"{two} seed 1", f"{one} seed 2", f"{two} seed 2"]
    failed = Confirmation(*MEMBERS[0].key, 1, one, {}, "out of memory")
    assert names(repetitions_left(known=[failed])) == [f"{two} seed 1", f"{one} seed 2", f"{two} seed 2"]


def test_job_repeats_the_full_schedule_under_the_seed_up_to_the_rung(tmp_path):
    member = replace(MEMBERS[0], rung=2)
    plan = plan_of(SWEEP, tmp_path)
    job = RepetitionTask(Repetition(member, 7), SWEEP, plan, SweepFolder(tmp_path, SWEEP.name)).job()
    assert (job.trial.seed, job.stop_at_rung) == (7, 2)
    assert (job.trial.epochs, job.trial.rungs) == (SWEEP.trial.epochs, SWEEP.trial.rungs)
    assert job.trial.forget.method == member.record.params["forget.method"]
    assert job.folder == plan.original.folder and job.weights is None


def test_all_repetitions_are_queued_before_the_first_is_waited_for(tmp_path):
    _, lanes, _ = run(tmp_path, repetitions_left())
    assert lanes.ended == [(name, 4) for name in names(repetitions_left())]


def test_results_are_read_back_in_the_order_in_which_they_ended(tmp_path):
    folder, _, lines = run(tmp_path, repetitions_left())
    found = read_confirmations(folder)
    assert found[0] == Confirmation(*MEMBERS[0].key, 1, MEMBERS[0].name, measured(0.1, 0.5), spent_s=2.0)
    assert names(found) == names(repetitions_left())
    assert lines[0] == f"{MEMBERS[0].name} seed 1 [1/4]: forget_true_mass 0.100, utility 0.500 (2.0 s)"


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        ("loss is NaN at step 3", "loss is NaN at step 3"),
        (measured(float("nan"), 0.5), "not a finite number: test/forget_true_mass = nan"),
    ],
)
def test_failed_repetition_is_kept_with_its_reason_and_the_rest_goes_on(tmp_path, outcome, reason):
    first, *rest = repetitions_left()
    lanes = LocalLanes(ending_as({first.name: outcome}))
    folder, _, lines = run(tmp_path, [first, *rest], lanes)
    failed, *others = read_confirmations(folder)
    assert failed.key == first.key and failed.reason.startswith(reason) and not failed.metrics
    assert [other.reason for other in others] == [None] * len(rest)
    assert lines[0].startswith(f"{first.name} [1/4]: failed: {reason}")


def test_lost_lanes_are_no_failure_and_the_next_call_goes_on(tmp_path):
    first, *rest = repetitions_left()
    outcome = Lost("no lane is left")
    lanes = LocalLanes(ending_as(dict.fromkeys(names(rest), outcome)))
    message = r"3 repetitions are missing: no lane is left.*run the same command again"
    with pytest.raises(LostError, match=message):
        run(tmp_path, [first, *rest], lanes)
    known = read_confirmations(SweepFolder(tmp_path, SWEEP.name))
    assert names(known) == [first.name]
    folder, _, _ = run(tmp_path, repetitions_left(known=known))
    assert names(read_confirmations(folder)) == names([first, *rest])


def test_stop_request_ends_after_the_current_repetition_and_the_next_call_ignores_it(tmp_path):
    folder, _, lines = run(tmp_path, repetitions_left(), stop_after=1)
    assert len(read_confirmations(folder)) == 1 and "3 repetitions left" in lines[-1]
    run(tmp_path, repetitions_left(known=read_confirmations(folder)))
    assert len(read_confirmations(folder)) == 4


def test_file_is_complete_after_every_result(tmp_path):
    folder = SweepFolder(tmp_path, SWEEP.name)
    counts = []

    class CountingLanes(LocalLanes):
        def news(self, seen):
            file = folder.path / "confirmations.json"
            counts.append(len(json.loads(file.read_text())) if file.is_file() else 0)
            return super().news(seen)

    run(tmp_path, repetitions_left(), CountingLanes(ending_as()))
    assert counts == [0, 1, 2, 3]


@pytest.mark.parametrize("lost", [False, True], ids=["killed", "lost"])
def test_a_repetition_that_ends_before_an_earlier_one_is_kept_at_once(tmp_path, lost):
    """With several lanes the second may end first; its result is kept whether or not the first one ends."""
    first, *others = repetitions_left()

    class KilledDriver(LocalLanes):
        def news(self, seen):
            if list(seen) == [first.name] and not lost:
                raise KeyboardInterrupt
            return super().news(seen)

    outcomes = {first.name: Lost("no lane is left")} if lost else {}
    lanes = KilledDriver(ending_as(outcomes), order=names(others))
    with pytest.raises(LostError if lost else KeyboardInterrupt):
        run(tmp_path, [first, *others], lanes)
    kept = read_confirmations(SweepFolder(tmp_path, SWEEP.name))
    assert names(kept) == names(others)
    assert names(repetitions_left(known=kept)) == [first.name]
