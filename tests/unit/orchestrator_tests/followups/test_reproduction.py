import math
from dataclasses import replace

import pytest

from orchestrator.followups.reproduction import (
    Outcome,
    compare,
    compare_origins,
    describe,
    recorded_decisions,
)
from orchestrator.storage.trial_records import TrialRecord

RUNGS = [
    {"validation/a": 0.5, "train/loss": 1.0},
    {"validation/a": 0.25, "test/a": 0.3, "duration_s": 9.0, "worker_seconds": 18.0},
]
RECORD = TrialRecord("t0003", 3, "finished", {}, RUNGS[-1], RUNGS)
SAME = {1: {"validation/a": 0.5, "train/loss": 1.0}, 2: {"validation/a": 0.25, "test/a": 0.3}}


def changed(rung, **metrics):
    return Outcome({number: values | (metrics if number == rung else {}) for number, values in SAME.items()})


def test_same_numbers_are_identical_and_times_are_not_compared():
    found = compare(RECORD, Outcome(SAME | {2: SAME[2] | {"test/b": 1.0}}))
    assert found.identical and found.compared == 4
    assert describe(RECORD, found, []) == ["t0003 is identical: 4 metrics at 2 rungs, bit for bit"]


def test_last_bit_counts():
    found = compare(RECORD, changed(2, **{"validation/a": math.nextafter(0.25, 1)}))
    assert not found.identical
    assert "largest difference: 5.55e-17 in validation/a at rung 2" in describe(RECORD, found, [])[1]


def test_largest_difference_comes_first():
    outcome = Outcome({1: SAME[1] | {"train/loss": 1.25}, 2: SAME[2] | {"test/a": 0.31}})
    found = compare(RECORD, outcome)
    assert [difference.metric for difference in found.differences] == ["train/loss", "test/a"]
    assert "2 of 4 metrics" in describe(RECORD, found, [])[0]


@pytest.mark.parametrize("now", [math.nan, math.inf])
def test_value_that_is_not_finite_is_the_largest_difference(now):
    assert compare(RECORD, changed(1, **{"train/loss": now})).differences[0].size == math.inf


@pytest.mark.parametrize(
    ("before", "now"), [(math.nan, math.nan), (math.inf, math.inf), (1.7976931348623157e308, math.inf)]
)
def test_infinities_and_nan_equal_themselves_also_as_databases_hold_them(before, now):
    record = replace(RECORD, rungs=[{"train/loss": before}])
    assert compare(record, Outcome({1: {"train/loss": now}})).identical


@pytest.mark.parametrize(
    ("before", "now"), [(math.nan, math.inf), (math.inf, math.nan), (-math.inf, math.inf)]
)
def test_nan_differs_from_infinity(before, now):
    record = replace(RECORD, rungs=[{"train/loss": before}])
    (difference,) = compare(record, Outcome({1: {"train/loss": now}})).differences
    assert difference.size == math.inf


def test_missing_rung_missing_metric_and_further_rungs_are_differences():
    shorter = compare(RECORD, Outcome({1: SAME[1]}))
    assert len(shorter.differences) == 2
    assert "is missing" in describe(RECORD, shorter, [])[1]
    longer = compare(RECORD, Outcome(SAME | {3: {}}))
    assert longer.other == ("it reached rung 3, but rung 2 in the sweep",)


def test_trial_that_failed_must_fail_in_the_same_way():
    failed = TrialRecord("t0003", 3, "failed", {}, RUNGS[0], RUNGS[:1], reason="loss is nan")
    assert compare(failed, Outcome({1: SAME[1]}, failed="loss is nan")).identical
    other = "it did not fail; in the sweep it failed (loss is nan)"
    assert compare(failed, Outcome({1: SAME[1]})).other == (other,)


def test_reason_of_a_trial_that_was_stopped_is_no_failure():
    assert compare(replace(RECORD, status="stopped", reason="low at rung 2"), Outcome(SAME)).identical


def test_decisions_are_those_of_the_record():
    def decided(record, rungs, kept_rung=None):
        decisions = recorded_decisions(record, rungs, kept_rung).values()
        return [decision.go_on for decision in decisions], [decision.keep for decision in decisions]

    stopped = replace(RECORD, status="stopped")
    assert decided(stopped, 4) == ([True, False, False, False], [False, True, False, False])
    assert decided(stopped, 2, kept_rung=1) == ([True, False], [True, True])
    failed = TrialRecord("t0003", 3, "failed", {}, RUNGS[0], RUNGS[:1], reason="loss is nan")
    assert decided(failed, 3)[0] == [True, True, False]


def test_origins_that_changed_are_named():
    before = {"version.torch": "2.12", "version.ray": "2.60", "lethe.data_digest": "abc", "lethe.trials": "5"}
    now = {
        "version.torch": "2.13",
        "version.ray": "2.60",
        "version.new": "1",
        "lethe.data_digest": "abd",
        "mlflow.source": "x",
    }
    assert compare_origins(before, now, (2, 4)) == [
        "version.torch: 2.12 -> 2.13",
        "lethe.data_digest: abc -> abd",
        "workers: 2 -> 4",
    ]
    assert compare_origins({}, now, (2, 2)) == []
