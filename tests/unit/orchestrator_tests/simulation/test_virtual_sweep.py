from collections import Counter
from pathlib import Path

import pytest

from orchestrator.search.study import Study
from orchestrator.simulation.learning_curves import LearningCurves
from orchestrator.simulation.recording import packaged_recording
from orchestrator.simulation.virtual_sweep import (
    ORIGIN_S,
    SilentObserver,
    VirtualClock,
    VirtualSweep,
    run_lanes,
)
from orchestrator.storage.sweep_folder import SweepFolder
from orchestrator.storage.trial_records import TrialRecord
from search_spaces.loading.loader import load_sweep

RUNGS = 4


@pytest.fixture(scope="module")
def curves():
    return LearningCurves(packaged_recording())


def opened(root, curves, *overrides, lanes=3):
    common = ["search.enqueue=[]", "search.trials=12", "search.sampler=random", f"trial.rungs={RUNGS}"]
    sweep = load_sweep(Path("quickstart"), [*common, *overrides])
    folder = SweepFolder(root, sweep.name)
    folder.create(sweep, "quickstart")
    return VirtualSweep(sweep, folder, lanes, curves)


def ran(root, curves, *overrides, lanes=3) -> VirtualSweep:
    sweep = opened(root, curves, *overrides, lanes=lanes)
    sweep.run()
    return sweep


@pytest.fixture(scope="module")
def plain(tmp_path_factory, curves):
    """A sweep of twelve random trials that was run. Only to be looked at."""
    return ran(tmp_path_factory.mktemp("plain"), curves)


def test_lanes_go_on_in_the_order_of_time():
    clock, seen = VirtualClock(0.0), []

    def lane(name, *waits):
        for wait in waits:
            yield wait
            seen.append((name, clock()))

    run_lanes([lane("a", 2.0, 2.0), lane("b", 1.0, 0.5, 2.5)], clock)
    assert seen == [("b", 1.0), ("b", 1.5), ("a", 2.0), ("a", 4.0), ("b", 4.0)]


def test_every_trial_is_run_on_a_lane_that_is_never_idle(plain):
    records = plain.study.records()
    assert [record.status for record in records] == ["finished"] * 12
    assert all(len(record.rungs) == RUNGS for record in records)
    first, later = records[:3], records[3:]
    assert [record.started_at for record in first] == [ORIGIN_S] * 3
    assert Counter(record.started_at for record in later) <= Counter(record.finished_at for record in records)


def test_a_trial_takes_as_long_as_its_phases(plain):
    times = [time for rows in packaged_recording().seconds.values() for time in rows]
    for record in plain.study.records():
        spent = plain.study.annotations(record.number)["seconds"]
        setups = [time.setup for time in times if time.steps == pytest.approx(spent["steps"])]
        assert record.duration_s == pytest.approx(sum(spent.values()) + setups[0], abs=1e-4)


def test_the_test_part_is_measured_at_the_end_and_where_a_rung_is_kept(plain):
    for record in plain.study.records():
        assert "test/utility" in record.metrics
    assert {member.rung for member in plain.sweep_state.reported_front.members} - {RUNGS}


def test_a_simulation_repeated_is_the_same(tmp_path, curves):
    def without_note(record: TrialRecord):
        return record.params, record.rungs, record.started_at, record.finished_at

    one, other = (ran(tmp_path / name, curves, "search.sampler=tpe", "early_stopping={}") for name in "ab")
    assert list(map(without_note, one.study.records())) == list(map(without_note, other.study.records()))


def test_early_stopping_ends_trials_before_their_last_rung(tmp_path, curves):
    sweep = ran(tmp_path, curves, "search.trials=30", "early_stopping={}")
    stopped = [record for record in sweep.study.records() if record.status == "stopped"]
    assert stopped and all(len(record.rungs) < RUNGS and record.reason for record in stopped)
    assert all(record.spent_s < max(other.spent_s for other in sweep.study.records()) for record in stopped)


def test_budgets_count_virtual_time(tmp_path, curves):
    sweep = ran(tmp_path, curves, "search.trials=1000", "budget.wall_time_s=20")
    longest = max(record.spent_s for record in sweep.study.records())
    assert 20 <= sweep.clock() - ORIGIN_S <= 20 + longest
    assert sweep.stop_criterion.reason() == "budget.wall_time_s = 20 is used up"


def test_a_simulation_goes_on_where_it_was(tmp_path, curves):
    class Cut(SilentObserver):
        def trial_ended(self, record):
            if record.number == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path, curves, lanes=1).run(Cut())
    resumed = ran(tmp_path, curves, lanes=1)
    assert resumed.started_trials == 12 - 6
    records, whole = resumed.study.records(), ran(tmp_path / "whole", curves, lanes=1).study.records()
    assert [(record.rungs, record.finished_at) for record in records] == [
        (record.rungs, record.finished_at) for record in whole
    ]


def test_driver_time_leaves_out_what_is_made_up(plain):
    assert plain.driver.seconds > plain.study.ask_s > 0


def test_journal_is_read_as_that_of_any_sweep(plain):
    assert Study.read(plain.folder.journal, plain.sweep).records() == plain.study.records()
