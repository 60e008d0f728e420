import math
from dataclasses import replace

import pytest

from orchestrator.followups.reproduction import Outcome, _verdicts, compare, compare_origins, told
from orchestrator.storage.trial_records import TrialRecord

RUNGS = [{"validation/a": 0.5, "train/loss": 1.0}, {"validation/a": 0.25, "test/a": 0.3, "duration_s": 9.0, "worker_seconds": 18.0}]
RECORD = TrialRecord("t0003", 3, "finished", {}, RUNGS[-1], RUNGS)
SAME = {1: {"validation/a": 0.5, "train/loss": 1.0}, 2: {"validation/a": 0.25, "test/a": 0.3}}


def changed(rung, **metrics):
    return Outcome({number: values | (metrics if number == rung else {}) for number, values in SAME.items()})


def test_same_numbers_are_identical_and_times_are_not_compared():
    found = compare(RECORD, Outcome(SAME | {2: SAME[2] | {"test/b": 1.0}}))
    assert found.identical and found.compared == 4
    assert told(RECORD, found, []) == ["t0003 is identical: 4 metrics at 2 rungs, bit for bit"]


def test_last_bit_counts():
    found = compare(RECORD, changed(2, **{"validation/a": math.nextafter(0.25, 1)}))
    assert not found.identical
    assert "largest difference: 5.55e-17 in validation/a at rung 2" in told(RECORD, found, [])[1]


def test_largest_difference_comes_first():
    outcome = Outcome({1: SAME[1] | {"train/loss": 1.25}, 2: SAME[2] | {"test/a": 0.31}})
    assert [difference.metric for difference in compare(RECORD, outcome).differences] == ["train/loss", "test/a"]
    assert "2 of 4 metrics" in told(RECORD, compare(RECORD, outcome), [])[0]


@pytest.mark.parametrize("now", [math.nan, math.inf])
def test_number_that_is_none_is_the_largest_difference(now):
    assert compare(RECORD, changed(1, **{"train/loss": now})).differences[0].size == math.inf


@pytest.mark.parametrize(("before", "now"), [(math.nan, math.nan), (math.inf, math.inf), (1.7976931348623157e308, math.inf)])
def test_infinities_and_nan_equal_themselves_also_as_databases_hold_them(before, now):
    record = replace(RECORD, rungs=[{"train/loss": before}])
    assert compare(record, Outcome({1: {"train/loss": now}})).identical


def test_missing_rung_missing_metric_and_further_rungs_are_differences():
    assert len(compare(RECORD, Outcome({1: SAME[1]})).differences) == 2
    assert "is missing" in told(RECORD, compare(RECORD, Outcome({1: SAME[1]})), [])[1]
    assert compare(RECORD, Outcome(SAME | {3: {}})).other == ("it reached rung 3, and rung 2 then",)


def test_trial_that_failed_must_fail_in_the_same_way():
    failed = TrialRecord("t0003", 3, "failed", {}, RUNGS[0], RUNGS[:1], reason="loss is nan")
    assert compare(failed, Outcome({1: SAME[1]}, failed="loss is nan")).identical
    assert compare(failed, Outcome({1: SAME[1]})).other == ("it did not fail; then it failed (loss is nan)",)


def test_reason_of_a_trial_that_was_stopped_is_no_failure():
    assert compare(replace(RECORD, status="stopped", reason="low at rung 2"), Outcome(SAME)).identical


def test_verdicts_are_those_that_the_trial_was_given():
    stopped = replace(RECORD, status="stopped")
    assert [(v.go_on, v.keep) for v in _verdicts(stopped, 4, None).values()] == [
        (True, False),
        (False, True),
        (False, False),
        (False, False),
    ]
    assert [v.keep for v in _verdicts(stopped, 2, 1).values()] == [True, True]
    failed = TrialRecord("t0003", 3, "failed", {}, RUNGS[0], RUNGS[:1], reason="loss is nan")
    assert [v.go_on for v in _verdicts(failed, 3, None).values()] == [True, True, False]


def test_origins_that_changed_are_named():
    before = {"version.torch": "2.12", "version.ray": "2.60", "lethe.data_digest": "abc", "lethe.trials": "5"}
    now = {"version.torch": "2.13", "version.ray": "2.60", "version.new": "1", "lethe.data_digest": "abd", "mlflow.source": "x"}
    assert compare_origins(before, now, (2, 4)) == ["version.torch: 2.12 -> 2.13", "lethe.data_digest: abc -> abd", "workers: 2 -> 4"]
    assert compare_origins({}, now, (2, 2)) == []
