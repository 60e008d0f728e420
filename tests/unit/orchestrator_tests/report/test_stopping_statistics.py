import json
from dataclasses import asdict

import pytest

from orchestrator.pareto.front import build_front
from orchestrator.pareto.objectives import criteria_of
from orchestrator.report.sections.stopping_statistics import stopping_statistics
from tests.support.sweeps.trials_at_rungs import make_sweep, trial, worth


def look_back(*records, **blocks):
    sweep = make_sweep(
        **{"trial": {"rungs": 4}, "early_stopping": {"reduction": 3, "ties": "crowding"}, **blocks}
    )
    return stopping_statistics(sweep, records, build_front(records, criteria_of(sweep)))


def finished(number, *qualities, **more):
    return trial(number, *map(worth, qualities), status="finished", **more)


def stopped(number, *qualities, reason="rank 9 of 9 at rung 1, the best 3 go on", **more):
    return trial(number, *map(worth, qualities), status="stopped", reason=reason, **more)


def of_two_rungs(*pairs):
    """Finished trials by their qualities at the first rung and at the end."""
    return [finished(number, *pair) for number, pair in enumerate(pairs)]


def test_saving_is_the_rungs_not_run_at_the_mean_time_per_rung_of_the_finished():
    records = [
        finished(0, 0.5, 0.5, 0.5, 0.5, duration_s=4.0, spent_s=4.0),
        finished(1, 0.5, 0.5, 0.5, 0.5, duration_s=12.0, spent_s=12.0),
        stopped(2, 0.5, duration_s=3.0, spent_s=3.0),
        stopped(3, 0.5, 0.5, 0.5, duration_s=5.0, spent_s=5.0),
    ]
    found = look_back(*records, resources={"workers_per_trial": 3})
    # 1 s and 3 s per rung; three rungs and one were not run.
    assert found.saved_worker_s == 4 * 2.0 * 3
    assert found.saved_frac == pytest.approx(8 / (8 + 24))
    assert (found.trials, found.stopped) == (4, 2)


def test_saving_goes_by_the_rungs_of_the_trial_where_they_are_searched():
    path = [0.5] * 6
    found = look_back(
        finished(0, *path, params={"rungs": 6}, duration_s=6.0),
        stopped(1, 0.5, params={"rungs": 3}),
        resources={"workers_per_trial": 1},
    )
    assert found.saved_worker_s == 2.0


def test_saving_does_not_count_rungs_that_no_schedule_has():
    assert (
        look_back(
            finished(0, 0.5, 0.5, duration_s=2.0), stopped(1, 0.5), resources={"workers_per_trial": 1}
        ).saved_worker_s
        == 1.0
    )


def test_saving_is_unknown_before_a_trial_has_finished():
    found = look_back(stopped(0, 0.5))
    assert found.saved_worker_s is None and found.saved_frac is None


def test_trials_that_a_budget_has_ended_are_not_counted_as_stopped_early():
    found = look_back(
        finished(0, 0.5, 0.5, duration_s=2.0), stopped(1, 0.5, reason="budget.wall_time_s = 60 is used up")
    )
    assert found.stopped == 0 and found.saved_worker_s == 0.0
    assert [rung.stopped for rung in found.rungs] == [0]


def test_stopped_trials_are_counted_at_their_rung():
    found = look_back(finished(0, 0.5, 0.5, 0.5), stopped(1, 0.5), stopped(2, 0.5, 0.5), stopped(3, 0.5))
    assert [(rung.rung, rung.stopped, rung.finished) for rung in found.rungs] == [(1, 2, 1), (2, 1, 1)]


def test_correlation_is_one_where_a_rung_foretells_the_end_and_minus_one_where_it_is_turned_round():
    straight = look_back(*of_two_rungs(*((q / 10, q / 20) for q in range(1, 7)))).rungs[0]
    turned = look_back(*of_two_rungs(*((q / 10, 0.9 - q / 20) for q in range(1, 7)))).rungs[0]
    assert straight.correlations == {"mass": pytest.approx(1), "utility": pytest.approx(1)}
    assert turned.correlations == {"mass": pytest.approx(-1), "utility": pytest.approx(-1)}
    assert straight.joint_correlation == pytest.approx(1) and turned.joint_correlation == pytest.approx(-1)


def test_correlation_is_spearmans():
    # Two neighbours of five change places: 1 - 6 * 2 / (5 * 24).
    found = look_back(*of_two_rungs((0.1, 0.1), (0.2, 0.2), (0.3, 0.4), (0.4, 0.3), (0.5, 0.5))).rungs[0]
    assert found.correlations["utility"] == found.joint_correlation == pytest.approx(0.9)


def test_correlation_is_of_each_objective_by_itself():
    ends = [(0.1 * number, 0.5) for number in range(1, 6)]
    records = [
        trial(number, (mass, 1 - mass), (mass, 1 - other), status="finished")
        for number, (mass, other) in enumerate(ends)
    ]
    found = look_back(*records).rungs[0]
    assert found.correlations == {"mass": pytest.approx(1), "utility": None}


def test_correlation_is_unknown_with_few_finished_trials():
    found = look_back(*of_two_rungs(*((q / 10, q / 10) for q in range(1, 5))), stopped(9, 0.5)).rungs[0]
    assert (found.finished, found.correlations, found.joint_correlation) == (
        4,
        {"mass": None, "utility": None},
        None,
    )


def test_late_bloomer_is_a_member_that_stopping_would_lose():
    # The best two of six go on; the last of them at rung 1 is the front in the end.
    found = look_back(*of_two_rungs((0.6, 0.6), (0.5, 0.5), (0.4, 0.4), (0.3, 0.3), (0.2, 0.2), (0.1, 0.9)))
    (rung,) = found.rungs
    assert (rung.outside, rung.lost_members, found.members) == (4, 1, 1)
    assert rung.lost_hypervolume_frac == pytest.approx(1 - 0.6**2 / 0.9**2)


def test_member_that_was_reached_before_the_stop_is_not_lost():
    records = [finished(number, 0.5, 0.5, 0.5) for number in range(4)]
    first, second = look_back(*records, finished(4, 0.9, 0.1, 0.0)).rungs
    assert (first.outside, first.lost_members) == (0, 0)
    assert (second.outside, second.lost_members, second.lost_hypervolume_frac) == (1, 0, 0.0)


def test_earlier_rungs_do_not_make_up_for_the_last_where_only_that_counts():
    records = of_two_rungs((0.6, 0.5), (0.5, 0.4), (0.4, 0.3), (0.35, 0.7))
    rung = look_back(*records, search={"select": "last"}, early_stopping={"reduction": 2}).rungs[0]
    assert rung.lost_members == 1 and rung.lost_hypervolume_frac == pytest.approx(1 - 0.5**2 / 0.7**2)


def test_stopped_trials_take_part_in_the_ranking_at_their_rung():
    records = [*of_two_rungs((0.6, 0.6), (0.5, 0.5)), *(stopped(number, 0.9) for number in range(5, 9))]
    assert look_back(*records).rungs[0].outside == 2
    assert look_back(*records[:2]).rungs[0].outside == 0


@pytest.mark.parametrize(
    "records", [[], [finished(0, 0.5), finished(1, 0.6)], [trial(0, worth(0.5), status="failed")]]
)
def test_nothing_is_told_where_trials_have_one_rung_or_none(records):
    assert look_back(*records).rungs == ()


def test_statistics_are_plain_data():
    found = asdict(look_back(*of_two_rungs((0.6, 0.6), (0.5, 0.5)), stopped(5, 0.1)))
    assert json.loads(json.dumps(found))["rungs"][0]["stopped"] == 1
