import time
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from orchestrator.lanes.job_queue import LanesSnapshot, RunningJob
from orchestrator.pareto.objectives import criteria_of
from orchestrator.search.sweep_state import SweepState
from orchestrator.storage.trial_records import TrialRecord, trial_id
from orchestrator.terminal import live_progress
from orchestrator.terminal.live_progress import LiveProgress, duration, seconds_left
from tests.support.sweeps.sweep_on_disk import measured, small_sweep
from trainables.events import StepDone

CRITERIA = criteria_of(small_sweep())


def record(number, *points, **more):
    """A finished trial with a rung for each point."""
    rungs = [measured(*point) for point in points or ((0.5, 0.7),)]
    fields = {"status": "finished"} | {
        "params": {"forget.method": "npo", "beliefs": "token"},
        "metrics": rungs[-1],
        "rungs": rungs,
    }
    fields |= {"duration_s": 10.0, "finished_at": float(number)} | more
    return TrialRecord(
        trial_id=trial_id(number), number=number, **{"spent_s": fields["duration_s"] or 0.0, **fields}
    )


def failed(number, reason="loss is NaN"):
    return record(number, status="failed", metrics={}, rungs=[], reason=reason)


def started(number):
    return record(number, status="running", metrics={}, rungs=[], duration_s=None, finished_at=None)


def running(step=None):
    """A job that has run for seven seconds."""
    return RunningJob("lane0", time.time() - 7, step)


def ledger_of(*records):
    return SweepState(CRITERIA, 2, records)


def end(progress, record):
    """What the recorder does when a trial ends."""
    progress.sweep_state.update(record)
    progress.trial_ended(record)


@pytest.fixture
def plain():
    """Progress where there is no terminal, and what it has said so far."""
    console = Console(file=StringIO(), width=60)
    return LiveProgress(console, ledger_of(), 4), console.file.getvalue


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(live_progress, "REFRESH_S", 0.005)
    monkeypatch.setattr(live_progress, "PLAIN_EVERY_S", 0.01)


def until(said, text):
    deadline = time.monotonic() + 5
    while text not in said():
        assert time.monotonic() < deadline, said()
        time.sleep(0.005)


def drawn(progress):
    """The live table as it would be on a terminal."""
    console = Console(file=StringIO(), width=140)
    console.print(progress._render())
    return console.file.getvalue()


def test_stage_is_told_once_however_often_its_progress_moves(plain):
    progress, said = plain
    for step in range(3):
        progress.stage("preparing the target model", {"step": step, "steps": 3, "loss": 1.0})
    progress.stage("measuring the original model")
    assert said() == "preparing the target model ...\nmeasuring the original model ...\n"


def test_ended_trial_is_one_line_with_its_test_values_front_rungs_hypervolume_and_time_left(plain):
    progress, said = plain
    progress.sweep_state.update(started(1))
    end(progress, record(0, (0.6, 0.9), (0.5, 0.7)))
    assert said() == (
        "t0000 [1/4] npo + token: forget_true_mass 0.500, utility 0.700, on the front at rung 1, 2 (10.0 s)"
        " | hypervolume 0.4300, about 30 s left\n"
    )


def test_ended_trial_that_is_not_on_the_front_does_not_say_so(plain):
    progress, said = plain
    end(progress, record(0, (0.5, 0.7)))
    end(progress, record(1, (0.6, 0.6)))
    assert (
        "t0001 [2/4] npo + token: forget_true_mass 0.600, utility 0.600 (10.0 s) | hypervolume 0.3500"
        in said()
    )


def test_stopped_trial_is_told_with_its_reason_and_its_rungs_on_the_front(plain):
    progress, said = plain
    end(progress, record(0, (0.5, 0.7), status="stopped", reason="ranks 7 of 9"))
    assert (
        "t0000 [1/4] npo + token: stopped: ranks 7 of 9, on the front at rung 1 (10.0 s) | hypervolume 0.3500"
        in said()
    )


def test_failed_trial_is_told_with_its_reason_as_written(plain):
    progress, said = plain
    end(progress, record(0))
    end(progress, failed(1, "[/tmp/x] is [bold]full[/bold]"))
    assert (
        "t0001 [2/4] npo + token: failed: [/tmp/x] is [bold]full[/bold] (10.0 s) | hypervolume 0.3500"
        in said()
    )


def test_settings_of_a_trial_without_method_and_beliefs_are_its_first_two(plain):
    progress, said = plain
    end(progress, record(0, params={"epochs": 3, "retain.weight": 0.5, "seed": 1}))
    assert "epochs 3, retain.weight 0.5:" in said()


def test_rung_is_told_with_validation_values(plain):
    progress, said = plain
    progress.rung(
        record(3, rungs=[{}, {"validation/utility": 0.25, "test/utility": 0.9}], status="running"), 2
    )
    assert said() == "  t0003 rung 2: utility 0.250\n"


def test_rung_is_not_told_where_the_live_table_shows_it():
    console = Console(file=StringIO(), force_terminal=True, width=100)
    LiveProgress(console, ledger_of(), 4).rung(record(3, status="running"), 1)
    assert console.file.getvalue() == ""


def test_plain_output_is_never_silent_for_long(plain, quick):
    progress, said = plain
    with progress:
        progress.stage("preparing the target model", StepDone(3, 9, 0.25))
        until(said, "  preparing the target model: 0 s, step 3/9, loss 0.250\n")
        progress.snapshot = lambda: LanesSnapshot(
            {"t0000": running(StepDone(1, 2, 0.5)), "t0001": running()}, [], ["lane0"]
        )
        until(said, "  t0000 step 1/2, loss 0.500; t0001 is being set up\n")
        progress.snapshot = None
        progress.stage("writing the report")
        until(said, "  writing the report: 0 s\n")
    after = said()
    time.sleep(0.03)
    assert said() == after, "spoke after its end"


def test_live_table_comes_and_goes_with_the_context(quick):
    console = Console(file=StringIO(), force_terminal=True, width=140)
    with LiveProgress(console, ledger_of(record(0)), 4):
        until(console.file.getvalue, "1 of 4 trials, 1 on the front, hypervolume 0.3500")
    after = console.file.getvalue()
    time.sleep(0.03)
    assert console.file.getvalue() == after, "drawn after its end"


def rows(progress):
    return {line.split("│")[1].strip(): line for line in drawn(progress).splitlines() if line.startswith("│")}


def test_live_table_marks_the_front_and_shows_running_trials(plain):
    progress, _ = plain
    progress.sweep_state = ledger_of(record(0, (0.5, 0.7)), record(1, (0.6, 0.6)), failed(2), started(3))
    progress._seen = LanesSnapshot({"t0003": running(StepDone(1, 2, 0.5))}, [], ["lane0"])
    shown = rows(progress)
    assert (
        "on the front at rung 1" in shown["t0000"] and "0.500" in shown["t0000"] and "10 s" in shown["t0000"]
    )
    assert "finished" in shown["t0001"]
    assert "failed" in shown["t0002"] and "0." not in shown["t0002"]
    assert "7 s" in shown["t0003"] and "npo + token" in shown["t0003"]
    assert "3 of 4 trials, 1 on the front, hypervolume 0.3500" in drawn(progress)


def test_live_table_shows_stopped_trials_by_what_was_measured_of_them(plain):
    progress, _ = plain
    validation = {key: value for key, value in measured(0.9, 0.1).items() if key.startswith("validation")}
    kept = record(0, (0.5, 0.7), status="stopped", reason="ranks 7 of 9")
    rest = record(
        1, status="stopped", reason="ranks 8 of 9", metrics=validation, rungs=[measured(0.3, 0.2), validation]
    )
    progress.sweep_state = ledger_of(kept, rest)
    shown = rows(progress)
    assert "on the front at rung 1" in shown["t0000"] and "0.700" in shown["t0000"]
    assert "on the front at rung 1" in shown["t0001"] and "0." not in shown["t0001"]
    end(progress, record(2, (0.1, 0.9)))
    assert "stopped" in rows(progress)["t0001"] and "front" not in rows(progress)["t0001"]


def test_live_table_keeps_to_the_trials_that_ended_last(plain):
    progress, _ = plain
    progress.sweep_state = ledger_of(
        *(record(number, finished_at=100.0 - number) for number in range(live_progress.SHOWN_ENDED + 3))
    )
    shown = drawn(progress)
    assert "t0000" in shown and trial_id(live_progress.SHOWN_ENDED + 1) not in shown


def test_live_table_is_drawn_before_anything_is_known(plain):
    progress, _ = plain
    assert drawn(progress) == "starting: 0 s\n"


def test_live_view_shows_how_far_preparation_is_before_there_are_trials(plain):
    progress, _ = plain
    progress.stage("preparing the target model", StepDone(3, 9, 0.25))
    assert drawn(progress) == "━━━━━━╸              preparing the target model: 0 s, step 3/9, loss 0.250\n"


def test_waiting_for_workers_is_told_although_the_stage_is_named_already(plain):
    progress, _ = plain
    progress.stage("running 4 trials")
    progress._seen = LanesSnapshot()
    assert drawn(progress).startswith("waiting for the first lane's workers: 0 s")


@pytest.mark.parametrize(
    ("records", "trials", "lanes", "expected"),
    [
        ([], 4, 1, None),
        ([started(0)], 4, 1, None),
        ([record(0)], 4, 1, 30.0),
        ([record(0), failed(1), started(2)], 6, 1, 40.0),
        ([record(0), record(1, status="stopped", duration_s=4.0)], 4, 1, 14.0),
        ([record(0), record(1, duration_s=20.0)], 4, 2, 15.0),
        ([record(0, spent_s=25.0)], 3, 1, 50.0),
        ([record(0)], 1, 1, 0.0),
        ([record(0), record(1)], 1, 1, 0.0),
    ],
)
def test_seconds_left_follow_from_the_mean_of_the_ended_trials(records, trials, lanes, expected):
    assert seconds_left(ledger_of(*records), trials, lanes) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (45.4, "45 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_duration_is_written_for_people(seconds, expected):
    assert duration(seconds) == expected


def test_records_without_an_end_time_do_not_hinder_the_table(plain):
    progress, _ = plain
    progress.sweep_state = ledger_of(replace(record(0), finished_at=None), record(1))
    assert "t0000" in drawn(progress)
