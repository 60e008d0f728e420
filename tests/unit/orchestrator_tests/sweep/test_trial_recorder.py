import random

import pytest

from orchestrator.pareto.front import build_front
from orchestrator.storage.trial_records import trial_id
from tests.support.sweeps.sweep_in_progress import SECONDS, part, recording
from tests.support.sweeps.sweep_on_disk import measured, small_sweep
from trainables.events import LineLogged, RungReached, RungTested


@pytest.fixture
def stage(tmp_path):
    """A sweep whose first trials are about to run."""
    return recording(tmp_path)


def test_rung_goes_into_study_ledger_log_and_before_people(stage):
    number = stage.begin()
    stage.take(number, LineLogged("sampled 3 responses"))
    stage.take(number, RungReached(1, 4, part((0.5, 0.7), "validation")))
    (record,) = stage.study.records()
    assert (record.status, record.rungs) == ("running", [part((0.5, 0.7), "validation")])
    assert stage.sweep_state.records[0] == record
    assert stage.log(0) == ["sampled 3 responses", "rung 1 of 4: forget_true_mass 0.5, utility 0.7; kept"]
    assert stage.observer.shown == [("t0000", "rung 1", part((0.5, 0.7), "validation"))]
    assert stage.changes == [[0]]


def test_trial_that_is_handed_out_is_known_to_be_running(stage):
    number = stage.begin()
    assert list(stage.sweep_state.running) == [number]
    assert stage.observer.shown == [] and stage.changes == []


def test_test_part_joins_the_rung_that_it_belongs_to(stage):
    number = stage.begin()
    for rung in (1, 2):
        stage.take(number, RungReached(rung, 4, part((0.5 / rung, 0.7), "validation")))
    assert stage.take(number, RungTested(1, part((0.6, 0.7), "test"))) is None
    expected = [part((0.5, 0.7), "validation") | part((0.6, 0.7), "test"), part((0.25, 0.7), "validation")]
    assert stage.study.record(number).rungs == stage.sweep_state.records[number].rungs == expected


def test_finished_trial_is_ended_with_the_metrics_of_its_last_rung_and_its_times(stage):
    stage.run((0.6, 0.6), (0.5, 0.7))
    record = stage.study.record(0)
    assert (record.status, record.metrics) == ("finished", measured(0.5, 0.7))
    assert stage.study.annotations(0)["seconds"] == SECONDS
    assert stage.log(0)[-1] == "finished"
    assert stage.observer.shown[-1] == ("t0000", "finished", None)
    assert stage.changes[-1] == [0]
    assert stage.sweep_state.counts["finished"] == 1


def test_stopped_trial_keeps_its_reason_and_what_it_reached(stage):
    number = stage.begin()
    stage.rung(number, 1, 4, (0.5, 0.7))
    stage.end(number, "stopped", "ranks 7 of 9")
    record = stage.study.record(number)
    assert (record.status, record.reason, record.metrics) == ("stopped", "ranks 7 of 9", measured(0.5, 0.7))
    assert stage.log(0)[-1] == "stopped: ranks 7 of 9"
    assert stage.observer.shown[-1] == ("t0000", "stopped", "ranks 7 of 9")
    assert stage.sweep_state.front.chosen == {("t0000", 1)}


def test_failed_trial_keeps_its_reason_everywhere(stage):
    number = stage.begin()
    stage.end(number, "failed", "loss is NaN at step 3")
    record = stage.study.record(number)
    assert (record.status, record.reason) == ("failed", "loss is NaN at step 3")
    assert stage.log(0) == ["failed: loss is NaN at step 3"]
    assert stage.observer.shown == [("t0000", "failed", "loss is NaN at step 3")]


def test_trial_that_finished_with_a_nan_is_told_as_failed(stage):
    stage.run((float("nan"), 0.7))
    assert stage.study.record(0).status == stage.sweep_state.records[0].status == "failed"
    assert (
        stage.log(0)[-1]
        == "failed: not a finite number: test/forget_true_mass = nan, validation/forget_true_mass = nan"
    )


def test_lost_trial_stays_running_so_that_the_next_start_repeats_it(stage):
    asked = stage.study.ask()
    stage.recorder.started(asked.number)
    stage.end(asked.number, "lost", "lane0 could not go on")
    assert stage.study.record(0).status == "running"
    assert stage.recorder.lost == "lane0 could not go on"
    assert stage.observer.shown == []
    assert recording(stage.folder.root).study.ask() == asked


def test_rung_is_kept_while_it_may_end_up_on_the_front_and_not_after(stage):
    stage.run((0.4, 0.6))
    number = stage.begin()
    kept = [
        stage.rung(number, rung, 4, point).keep
        for rung, point in enumerate([(0.5, 0.5), (0.3, 0.5), (0.35, 0.5), (0.5, 0.7)], 1)
    ]
    assert kept == [False, True, False, True]
    assert "test/utility" not in stage.study.record(number).rungs[0]
    assert [line.endswith("; kept") for line in stage.log(number)] == kept


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
    stage = recording(tmp_path, small_sweep(budget=budget), lambda: now[0])
    number = stage.begin()
    assert stage.rung(number, 1, 4, (0.5, 0.5)).go_on
    now[0] += 60
    stage.end(stage.begin(), "failed", "NaN")
    decision = stage.rung(number, 2, 4, (0.4, 0.5))
    assert (decision.go_on, decision.keep, decision.reason) == (False, True, reason)
    assert stage.log(number)[-1].endswith(f"; kept; stopped: {reason}")


def test_trial_that_is_out_of_time_ends_and_the_others_go_on(tmp_path):
    now = [0.0]
    stage = recording(tmp_path, small_sweep(budget={"trial_time_s": 100.0}), lambda: now[0])
    number = stage.begin()
    now[0] = stage.sweep_state.records[number].started_at + 99.0
    assert stage.rung(number, 1, 4, (0.5, 0.5)).go_on
    now[0] += 1.0
    assert stage.rung(number, 2, 4, (0.4, 0.5)).reason == "budget.trial_time_s = 100 is used up"
    assert stage.recorder.stop_criterion.reason() is None


def test_wish_to_stop_reaches_the_verdict(stage):
    number = stage.begin()
    stage.folder.stop_request.touch()
    decision = stage.rung(number, 1, 4, (0.5, 0.5))
    assert (decision.go_on, decision.reason) == (False, "asked to stop by `lethe stop`")


def test_early_stopping_reaches_the_verdict_and_the_log(tmp_path):
    stage = recording(tmp_path, small_sweep(early_stopping={"floors": {"utility": {"at_least": 0.4}}}))
    number = stage.begin()
    decision = stage.rung(number, 1, 4, (0.5, 0.3))
    assert not decision.go_on and "utility = 0.3" in decision.reason
    assert stage.log(number)[-1].endswith(f"; stopped: {decision.reason}")


def test_trial_at_its_last_rung_is_not_said_to_be_stopped(stage):
    number = stage.begin()
    stage.folder.stop_request.touch()
    stage.rung(number, 1, 1, (0.5, 0.5))
    assert "stopped" not in stage.log(number)[-1]


def test_weights_of_dominated_rungs_go_when_their_trial_ends(stage):
    stage.run((0.5, 0.5), (0.4, 0.6), (0.3, 0.5))
    assert stage.kept() == {("t0000", 2), ("t0000", 3)}


def test_weights_of_earlier_trials_go_when_a_new_one_dominates_them(stage):
    stage.run((0.5, 0.5), (0.2, 0.3))
    stage.run((0.4, 0.6), (0.9, 0.9))
    assert stage.kept() == {("t0000", 2), ("t0001", 1), ("t0001", 2)}
    assert stage.folder.trial_log("t0000").is_file()


def test_weights_of_failed_trials_go(stage):
    number = stage.begin()
    stage.rung(number, 1, 4, (0.5, 0.5))
    stage.end(number, "failed", "disk full")
    assert stage.kept() == set()


def test_weights_that_a_killed_driver_left_are_dropped_by_the_next_one(stage):
    stage.run((0.5, 0.5), (0.4, 0.6))
    running = stage.begin()
    stage.rung(running, 1, 4, (0.3, 0.3))
    stage.folder.weights("t0000").joinpath("rung1").mkdir()
    stage.recorder.tidy()
    assert stage.kept() == {("t0000", 2), ("t0001", 1)}


def test_weights_of_a_running_trial_are_left_alone(stage):
    running = stage.begin()
    stage.rung(running, 1, 4, (0.5, 0.5))
    stage.run((0.1, 0.9))
    assert stage.kept() == {("t0000", 1), ("t0001", 1)}


def test_weights_of_a_rung_that_only_the_test_part_dominates_are_kept(stage):
    # It may come back to the front: the one that drives it out on the test part may itself be dominated
    # later.
    stage.run((0.5, 0.5))
    stage.run(((0.6, 0.6), (0.4, 0.6)))
    assert [member.name for member in stage.sweep_state.reported_front.members] == ["t0001"]
    assert stage.kept() == {("t0000", 1), ("t0001", 1)}


def test_unfinished_weights_do_not_hinder(stage):
    number = stage.begin()
    (stage.folder.weights("t0000") / "rung1.partial").mkdir(parents=True)
    stage.end(number, "failed", "disk full")
    assert stage.study.record(0).status == "failed"


def test_trials_whose_membership_moved_are_told_along_with_the_one_that_ended(stage):
    stage.run((0.5, 0.5))
    stage.run((0.9, 0.9))
    stage.run((0.4, 0.6))
    assert stage.changes[-1] == [0, 2]


def test_trial_that_leaves_the_reported_front_alone_is_told_too(stage):
    stage.run((0.5, 0.5))
    stage.run(((0.6, 0.6), (0.4, 0.6)))
    assert stage.changes[-1] == [0, 1]


@pytest.mark.parametrize("select", ["best_rung", "last"])
def test_weights_and_told_changes_follow_the_front_through_a_whole_sweep(tmp_path, select):
    stage = recording(tmp_path, small_sweep(search={"trials": 24, "sampler": "random", "select": select}))
    draw, told = random.Random(0), {}
    stage.recorder.on_change = lambda numbers: told.update(
        {number: member_rungs(stage, number) for number in numbers}
    )
    running = {}
    for _ in range(160):
        if len(running) < 3 and stage.study.remaining():
            running[stage.begin()] = 0
        number = draw.choice(list(running))
        running[number] += 1
        validation = draw.randint(1, 9) / 10, draw.randint(1, 9) / 10
        test = tuple(value + draw.choice((0.0, 0.0, 0.2)) for value in validation)
        stage.rung(number, running[number], 4, validation, test)
        if running[number] == 4 or draw.random() < 0.1:
            status = draw.choice(("stopped", "failed")) if running.pop(number) < 4 else "finished"
            stage.end(number, status, "so it was")
            records = stage.study.records()
            ended = {(name, rung) for name, rung in stage.kept() if int(name[1:]) not in running}
            assert ended == stage.sweep_state.front.chosen
            assert stage.sweep_state.reported_front == build_front(records, stage.sweep_state.criteria)
            assert {number: rungs for number, rungs in told.items() if rungs} == {
                number: rungs for number in range(len(records)) if (rungs := member_rungs(stage, number))
            }
        if not running and not stage.study.remaining():
            break


def member_rungs(stage, number):
    return {rung for name, rung in stage.sweep_state.reported_front.keys if name == trial_id(number)}


def test_second_end_of_a_trial_changes_nothing_in_study_and_ledger(stage):
    stage.run((0.5, 0.7))
    before = stage.study.record(0)
    stage.end(0, "failed", "the Tune actor that waited for this trial died")
    assert stage.study.record(0) == stage.sweep_state.records[0] == before
    assert stage.kept() == {("t0000", 1)}
