import random

import pytest

from orchestrator.pareto.front import build_front
from orchestrator.storage.trial_records import trial_id
from tests.support.sweeps.sweep_in_progress import SECONDS, part, start_sweep
from tests.support.sweeps.sweep_on_disk import measured, small_sweep
from trainables.events import LineLogged, RungReached, RungTested


@pytest.fixture
def start(tmp_path):
    """Returns a sweep that has started, without trials so far."""
    return start_sweep(tmp_path)


def test_rung_is_written_to_study_sweep_state_and_log_and_shown(start):
    number = start.begin()
    start.take(number, LineLogged("sampled 3 responses"))
    start.take(number, RungReached(1, 4, part((0.5, 0.7), "validation")))
    (record,) = start.study.records()
    assert (record.status, record.rungs) == ("running", [part((0.5, 0.7), "validation")])
    assert start.sweep_state.records[0] == record
    assert start.log(0) == ["sampled 3 responses", "rung 1 of 4: forget_true_mass 0.5, utility 0.7; kept"]
    assert start.observer.shown == [("t0000", "rung 1", part((0.5, 0.7), "validation"))]
    assert start.changes == [[0]]


def test_trial_that_has_started_is_running(start):
    number = start.begin()
    assert list(start.sweep_state.running) == [number]
    assert start.observer.shown == [] and start.changes == []


def test_test_part_joins_the_rung_that_it_belongs_to(start):
    number = start.begin()
    for rung in (1, 2):
        start.take(number, RungReached(rung, 4, part((0.5 / rung, 0.7), "validation")))
    assert start.take(number, RungTested(1, part((0.6, 0.7), "test"))) is None
    expected = [part((0.5, 0.7), "validation") | part((0.6, 0.7), "test"), part((0.25, 0.7), "validation")]
    assert start.study.record(number).rungs == start.sweep_state.records[number].rungs == expected


def test_finished_trial_is_ended_with_the_metrics_of_its_last_rung_and_its_times(start):
    start.run((0.6, 0.6), (0.5, 0.7))
    record = start.study.record(0)
    assert (record.status, record.metrics) == ("finished", measured(0.5, 0.7))
    assert start.study.annotations(0)["seconds"] == SECONDS
    assert start.log(0)[-1] == "finished"
    assert start.observer.shown[-1] == ("t0000", "finished", None)
    assert start.changes[-1] == [0]
    assert start.sweep_state.counts["finished"] == 1


def test_stopped_trial_keeps_its_reason_and_what_it_reached(start):
    number = start.begin()
    start.rung(number, 1, 4, (0.5, 0.7))
    start.end(number, "stopped", "ranks 7 of 9")
    record = start.study.record(number)
    assert (record.status, record.reason, record.metrics) == ("stopped", "ranks 7 of 9", measured(0.5, 0.7))
    assert start.log(0)[-1] == "stopped: ranks 7 of 9"
    assert start.observer.shown[-1] == ("t0000", "stopped", "ranks 7 of 9")
    assert start.sweep_state.front.chosen == {("t0000", 1)}


def test_failed_trial_keeps_its_reason_everywhere(start):
    number = start.begin()
    start.end(number, "failed", "loss is NaN at step 3")
    record = start.study.record(number)
    assert (record.status, record.reason) == ("failed", "loss is NaN at step 3")
    assert start.log(0) == ["failed: loss is NaN at step 3"]
    assert start.observer.shown == [("t0000", "failed", "loss is NaN at step 3")]


def test_trial_that_finished_with_a_nan_is_recorded_as_failed(start):
    start.run((float("nan"), 0.7))
    assert start.study.record(0).status == start.sweep_state.records[0].status == "failed"
    values = "test/forget_true_mass = nan, validation/forget_true_mass = nan"
    assert start.log(0)[-1] == f"failed: not a finite number: {values}"


def test_lost_trial_stays_running_so_that_the_next_start_repeats_it(start):
    proposed = start.study.ask()
    start.recorder.started(proposed.number)
    start.end(proposed.number, "lost", "lane0 could not go on")
    assert start.study.record(0).status == "running"
    assert start.recorder.lost == "lane0 could not go on"
    assert start.observer.shown == []
    assert start_sweep(start.folder.root).study.ask() == proposed


def test_rung_is_kept_while_it_may_end_up_on_the_front_and_not_after(start):
    start.run((0.4, 0.6))
    number = start.begin()
    points = [(0.5, 0.5), (0.3, 0.5), (0.35, 0.5), (0.5, 0.7)]
    kept = [start.rung(number, rung, 4, point).keep for rung, point in enumerate(points, 1)]
    assert kept == [False, True, False, True]
    assert "test/utility" not in start.study.record(number).rungs[0]
    assert [line.endswith("; kept") for line in start.log(number)] == kept


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        ({"wall_time_s": 50.0}, "budget.wall_time_s = 50 is used up"),
        ({"failures": 1}, "budget.failures = 1 is used up"),
    ],
)
def test_budget_that_is_used_up_ends_running_trials_at_their_next_rung_with_its_reason(
    tmp_path, budget, reason
):
    now = [1e9]
    start = start_sweep(tmp_path, small_sweep(budget=budget), lambda: now[0])
    number = start.begin()
    assert start.rung(number, 1, 4, (0.5, 0.5)).go_on
    now[0] += 60
    start.end(start.begin(), "failed", "NaN")
    decision = start.rung(number, 2, 4, (0.4, 0.5))
    assert (decision.go_on, decision.keep, decision.reason) == (False, True, reason)
    assert start.log(number)[-1].endswith(f"; kept; stopped: {reason}")


def test_trial_that_is_out_of_time_ends_and_the_others_go_on(tmp_path):
    now = [0.0]
    start = start_sweep(tmp_path, small_sweep(budget={"trial_time_s": 100.0}), lambda: now[0])
    number = start.begin()
    now[0] = start.sweep_state.records[number].started_at + 99.0
    assert start.rung(number, 1, 4, (0.5, 0.5)).go_on
    now[0] += 1.0
    assert start.rung(number, 2, 4, (0.4, 0.5)).reason == "budget.trial_time_s = 100 is used up"
    assert start.recorder.stop_criterion.reason() is None


def test_stop_request_reaches_the_decision(start):
    number = start.begin()
    start.folder.stop_request.touch()
    decision = start.rung(number, 1, 4, (0.5, 0.5))
    assert (decision.go_on, decision.reason) == (False, "asked to stop by `lethe stop`")


def test_early_stopping_reaches_the_decision_and_the_log(tmp_path):
    floors = {"utility": {"at_least": 0.4}}
    start = start_sweep(tmp_path, small_sweep(early_stopping={"floors": floors}))
    number = start.begin()
    decision = start.rung(number, 1, 4, (0.5, 0.3))
    assert not decision.go_on and "utility = 0.3" in decision.reason
    assert start.log(number)[-1].endswith(f"; stopped: {decision.reason}")


def test_log_does_not_call_a_trial_stopped_at_its_last_rung(start):
    number = start.begin()
    start.folder.stop_request.touch()
    start.rung(number, 1, 1, (0.5, 0.5))
    assert "stopped" not in start.log(number)[-1]


def test_weights_of_dominated_rungs_are_removed_when_their_trial_ends(start):
    start.run((0.5, 0.5), (0.4, 0.6), (0.3, 0.5))
    assert start.kept() == {("t0000", 2), ("t0000", 3)}


def test_weights_of_earlier_trials_are_removed_when_a_new_one_dominates_them(start):
    start.run((0.5, 0.5), (0.2, 0.3))
    start.run((0.4, 0.6), (0.9, 0.9))
    assert start.kept() == {("t0000", 2), ("t0001", 1), ("t0001", 2)}
    assert start.folder.trial_log("t0000").is_file()


def test_weights_of_failed_trials_are_removed(start):
    number = start.begin()
    start.rung(number, 1, 4, (0.5, 0.5))
    start.end(number, "failed", "disk full")
    assert start.kept() == set()


def test_weights_that_a_killed_driver_left_are_removed_by_the_next_one(start):
    start.run((0.5, 0.5), (0.4, 0.6))
    running = start.begin()
    start.rung(running, 1, 4, (0.3, 0.3))
    start.folder.weights("t0000").joinpath("rung1").mkdir()
    start.recorder.tidy()
    assert start.kept() == {("t0000", 2), ("t0001", 1)}


def test_weights_of_a_running_trial_stay(start):
    running = start.begin()
    start.rung(running, 1, 4, (0.5, 0.5))
    start.run((0.1, 0.9))
    assert start.kept() == {("t0000", 1), ("t0001", 1)}


def test_weights_of_a_rung_that_only_the_test_part_dominates_are_kept(start):
    # It may come back to the front, since the trial that dominates it there may be dominated later.
    start.run((0.5, 0.5))
    start.run(((0.6, 0.6), (0.4, 0.6)))
    assert [member.name for member in start.sweep_state.reported_front.members] == ["t0001"]
    assert start.kept() == {("t0000", 1), ("t0001", 1)}


def test_unfinished_weights_do_not_disturb_the_end_of_their_trial(start):
    number = start.begin()
    (start.folder.weights("t0000") / "rung1.partial").mkdir(parents=True)
    start.end(number, "failed", "disk full")
    assert start.study.record(0).status == "failed"


def test_trials_whose_membership_has_changed_are_changed_along_with_the_one_that_ended(start):
    start.run((0.5, 0.5))
    start.run((0.9, 0.9))
    start.run((0.4, 0.6))
    assert start.changes[-1] == [0, 2]


def test_trial_that_leaves_the_reported_front_is_changed_too(start):
    start.run((0.5, 0.5))
    start.run(((0.6, 0.6), (0.4, 0.6)))
    assert start.changes[-1] == [0, 1]


@pytest.mark.parametrize("select", ["best_rung", "last"])
def test_weights_and_changes_follow_the_front_through_a_whole_sweep(tmp_path, select):
    start = start_sweep(tmp_path, small_sweep(search={"trials": 24, "sampler": "random", "select": select}))
    draw, sent = random.Random(0), {}

    def on_change(numbers):
        sent.update({number: member_rungs(start, number) for number in numbers})

    start.recorder.on_change = on_change
    running = {}
    for _ in range(160):
        if len(running) < 3 and start.study.remaining():
            running[start.begin()] = 0
        number = draw.choice(list(running))
        running[number] += 1
        validation = draw.randint(1, 9) / 10, draw.randint(1, 9) / 10
        test = tuple(value + draw.choice((0.0, 0.0, 0.2)) for value in validation)
        start.rung(number, running[number], 4, validation, test)
        if running[number] == 4 or draw.random() < 0.1:
            status = draw.choice(("stopped", "failed")) if running.pop(number) < 4 else "finished"
            start.end(number, status, "a reason")
            records = start.study.records()
            ended = {(name, rung) for name, rung in start.kept() if int(name[1:]) not in running}
            assert ended == start.sweep_state.front.chosen
            assert start.sweep_state.reported_front == build_front(records, start.sweep_state.criteria)
            members = {number: member_rungs(start, number) for number in range(len(records))}
            assert without_empty(sent) == without_empty(members)
        if not running and not start.study.remaining():
            break


def member_rungs(start, number):
    """Returns the rungs of a trial that are on the reported front."""
    return {rung for name, rung in start.sweep_state.reported_front.keys if name == trial_id(number)}


def without_empty(rungs_by_trial):
    return {number: rungs for number, rungs in rungs_by_trial.items() if rungs}


def test_second_end_of_a_trial_changes_nothing(start):
    start.run((0.5, 0.7))
    before = start.study.record(0)
    start.end(0, "failed", "the Tune actor that waited for this trial died")
    assert start.study.record(0) == start.sweep_state.records[0] == before
    assert start.kept() == {("t0000", 1)}
