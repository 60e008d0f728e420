from collections import Counter
from dataclasses import replace

import pytest

from orchestrator.pareto.front import build_front, hypervolume_history
from orchestrator.search.sweep_state import NEWEST_ENDED, SweepState
from tests.support.sweeps.random_trials import CRITERIA, interleaved, measured, random_trials, record, up_to

EVERY = CRITERIA["every rung"]
BOTH = measured((1, 3), (1, 3))


def started(number, **more):
    return record(number, status="running", **more)


@pytest.mark.parametrize("name", CRITERIA)
def test_state_is_after_every_event_what_all_trials_add_up_to(name):
    criteria = CRITERIA[name]
    for seed in range(5):
        sweep_state, known, order = SweepState(criteria, 2), {}, []
        for trial, rung in interleaved(random_trials(seed), seed):
            now = trial if rung is None else up_to(trial, rung)
            sweep_state.update(now)
            known[trial.number] = now
            order += [now] if rung is None else []
            records = list(known.values())
            assert sweep_state.records == known
            assert sweep_state.running == {
                record.number: record for record in records if record.status == "running"
            }
            assert +sweep_state.counts == Counter(record.status for record in records)
            assert sweep_state.ended == len(order)
            assert list(sweep_state.newest_ended) == order[-NEWEST_ENDED:]
            assert sweep_state.spent_s == pytest.approx(sum(record.spent_s for record in records))
            assert sweep_state.worker_hours == pytest.approx(2 * sweep_state.spent_s / 3600)
        # Times of ends follow the order of the updates.
        ended = [replace(record, finished_at=float(place)) for place, record in enumerate(order)]
        assert sweep_state.hypervolumes == pytest.approx(hypervolume_history(ended, criteria))
        assert sweep_state.reported_front == build_front(order, criteria)
        assert sweep_state.reported_front.keys <= sweep_state.front.chosen


@pytest.mark.parametrize("name", CRITERIA)
def test_state_of_a_resumed_sweep_is_that_of_its_first_driver(name):
    records = random_trials(3)
    first, resumed = SweepState(CRITERIA[name], 2), SweepState(CRITERIA[name], 2, reversed(records))
    for trial in records:
        first.update(trial)
    for what in (
        "records",
        "running",
        "counts",
        "spent_s",
        "hypervolumes",
        "newest_ended",
        "reported_front",
        "ended",
        "worker_hours",
    ):
        assert getattr(resumed, what) == getattr(first, what), what


def test_second_end_of_a_trial_changes_nothing():
    sweep_state, ended = SweepState(EVERY, 1), record(0, BOTH, spent_s=3.0)
    sweep_state.update(started(0))
    sweep_state.update(ended)
    sweep_state.update(replace(ended, status="failed", reason="the lease died", spent_s=9.0))
    assert sweep_state.records == {0: ended} and +sweep_state.counts == {"finished": 1}
    assert (sweep_state.spent_s, len(sweep_state.hypervolumes), len(sweep_state.newest_ended)) == (3.0, 1, 1)


def test_spent_time_counts_earlier_attempts_while_a_trial_runs_and_all_of_them_once_at_its_end():
    sweep_state = SweepState(EVERY, 4, [started(0, spent_s=1800.0)])
    assert sweep_state.worker_hours == 2.0
    sweep_state.update(record(0, BOTH, spent_s=5400.0))
    assert sweep_state.worker_hours == 6.0


def test_failed_trials_count_as_ended_and_their_time_as_spent_but_leave_the_hypervolumes_alone():
    sweep_state = SweepState(EVERY, 1, [record(0, BOTH, status="failed", spent_s=3600.0)])
    assert (sweep_state.ended, sweep_state.worker_hours, sweep_state.hypervolumes) == (1, 1.0, [])


def test_trial_without_a_member_repeats_the_hypervolume():
    sweep_state = SweepState(
        EVERY,
        1,
        [record(0, BOTH, finished_at=1.0), record(1, measured((1, 3)), status="stopped", finished_at=2.0)],
    )
    assert (
        len(sweep_state.hypervolumes) == 2 and sweep_state.hypervolumes[0] == sweep_state.hypervolumes[1] > 0
    )


def test_state_of_nothing_has_an_empty_front():
    sweep_state = SweepState(EVERY, 2)
    assert sweep_state.reported_front.members == () and sweep_state.reported_front.hypervolume == 0.0
    assert (sweep_state.ended, sweep_state.worker_hours, sweep_state.hypervolumes) == (0, 0.0, [])
