import math
import random
from dataclasses import replace

import pytest

from orchestrator.pareto.objectives import criteria_of
from orchestrator.search.early_stopping import RungDecider, stopped_early
from orchestrator.search.sweep_state import SweepState
from tests.support.sweeps.trials_at_rungs import make_sweep, trial, worth

RUNGS = 4
EARLY = (0.9, 0.1)
"""Where all trials are alike."""


def make_decider(*ended, settings=None, **blocks):
    """A decider of a sweep with some ended trials; reduction 3 and ties by crowding unless given."""
    sweep = make_sweep(early_stopping={"reduction": 3, "ties": "crowding", **(settings or {})}, **blocks)
    return RungDecider(sweep, SweepState(criteria_of(sweep), 2, ended))


def at_second_rung(decide, *points):
    """Decisions on trials from number 10 on that reach the second rung one after another."""
    return [decide.decide(trial(number, EARLY, point), 2, RUNGS) for number, point in enumerate(points, 10)]


def going(decisions):
    return [decision.go_on for decision in decisions]


def test_best_third_of_all_that_came_goes_on():
    decisions = at_second_rung(make_decider(), *map(worth, (0.8, 0.7, 0.6, 0.75, 0.3, 0.9, 0.5)))
    assert going(decisions) == [True, True, False, True, False, True, False]
    assert decisions[4].reason == "rank 5 of 5 at rung 2, the best 2 go on"
    assert [decision.reason for decision in decisions if decision.go_on] == ["", "", "", ""]


def test_no_trial_is_stopped_while_fewer_trials_came_than_the_reduction():
    assert going(
        at_second_rung(make_decider(settings={"reduction": 4}), *map(worth, (0.8, 0.7, 0.6, 0.5)))
    ) == [True, True, True, False]


@pytest.mark.parametrize(("grace_rungs", "expected"), [(1, False), (2, True)])
def test_no_trial_is_stopped_in_grace(grace_rungs, expected):
    decisions = at_second_rung(
        make_decider(settings={"grace_rungs": grace_rungs}), *map(worth, (0.8, 0.7, 0.6))
    )
    assert decisions[2].go_on is expected


def test_no_trial_is_stopped_at_the_last_rung():
    decide = make_decider(settings={"floors": {"utility": {"at_least": 0.65}}})
    decisions = [
        decide.decide(trial(number, EARLY, worth(quality)), 2, 2)
        for number, quality in enumerate((0.8, 0.7, 0.6))
    ]
    assert going(decisions) == [True, True, True]


def test_no_trial_is_stopped_without_early_stopping_but_rungs_are_kept():
    sweep = make_sweep()
    decide = RungDecider(sweep, SweepState(criteria_of(sweep), 2, [trial(0, worth(0.5), status="finished")]))
    decisions = at_second_rung(decide, *map(worth, (0.8, 0.7, 0.6, 0.1)))
    assert going(decisions) == [True] * 4
    assert [decision.keep for decision in decisions] == [True, True, True, False]


def test_floor_stops_at_once_and_names_metric_value_and_limit():
    decide = make_decider(settings={"floors": {"utility": {"at_least": 0.4}, "mass": {"at_most": 0.95}}})
    low, high, fine = (
        decide.decide(trial(number, point), 1, RUNGS)
        for number, point in enumerate([(0.5, 0.3123), (0.97, 0.9), (0.95, 0.4)])
    )
    assert (
        not low.go_on
        and low.reason == "unfit at rung 1: utility = 0.3123, where early_stopping.floors wants at_least 0.4"
    )
    assert (
        not high.go_on
        and high.reason == "unfit at rung 1: mass = 0.97, where early_stopping.floors wants at_most 0.95"
    )
    assert fine.go_on


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_objective_that_is_not_finite_stops_at_once(value):
    decision = make_decider().decide(trial(0, (value, 0.9)), 1, RUNGS)
    assert not decision.go_on and not decision.keep
    assert decision.reason == f"unfit at rung 1: mass = {value} is not a finite number"


def test_unfit_trials_count_among_those_that_came_as_the_worst():
    # Of three trials one goes on; two unfit ones, though one of them would lead, make it two of five.
    decide = make_decider(settings={"floors": {"mass": {"at_least": 0.1}}})
    decisions = at_second_rung(decide, worth(0.95), (math.nan, 0.5), worth(0.8), worth(0.7), worth(0.6))
    assert going(decisions) == [False, False, True, True, False]
    assert decisions[4].reason == "rank 3 of 5 at rung 2, the best 2 go on"


def test_infeasible_trials_rank_behind_feasible_ones_by_their_violation():
    decide = make_decider(constraints={"utility": {"at_least": 0.5}})
    decisions = at_second_rung(decide, (0.1, 0.45), (0.0, 0.4), (0.9, 0.5), (0.05, 0.48), (0.0, 0.47))
    assert going(decisions) == [True, True, True, True, False]
    assert decisions[4].reason == "rank 3 of 5 at rung 2, the best 2 go on"


def test_equal_trials_get_the_same_decision():
    assert going(at_second_rung(make_decider(), *[worth(0.5)] * 6)) == [True] * 6


def test_epsilon_net_prefers_the_middle_where_crowding_prefers_the_ends():
    line = [(x / 10, x / 10) for x in (0, 10, 1, 9, 5)]
    assert not going(at_second_rung(make_decider(settings={"reduction": 5}), *line))[-1]
    assert going(at_second_rung(make_decider(settings={"reduction": 5, "ties": "epsilon_net"}), *line))[-1]


# At the rung, with both ends before it, the sixth has close neighbours: crowding ranks it low.
NEAR_ORIGINAL = [(0.1, 0.3), (0.999, 0.96), (0.3, 0.6), (0.5, 0.8), (0.985, 0.945), (0.99, 0.95)]
IN_THE_MIDDLE = [(0.1, 0.3), (0.999, 0.96), (0.45, 0.75), (0.3, 0.6), (0.31, 0.61), (0.305, 0.605)]


def test_trial_that_brings_hypervolume_is_shielded():
    assert not at_second_rung(make_decider(), *IN_THE_MIDDLE)[5].go_on
    finished = trial(0, (0.2, 0.5), status="finished")
    assert at_second_rung(make_decider(finished), *IN_THE_MIDDLE)[5].go_on
    # It brings 0.695 * 0.105 to a front of 0.4.
    assert at_second_rung(make_decider(finished, settings={"shield_frac": 0.18}), *IN_THE_MIDDLE)[5].go_on
    assert not at_second_rung(make_decider(finished, settings={"shield_frac": 0.19}), *IN_THE_MIDDLE)[5].go_on


def test_trial_near_the_original_model_is_not_shielded():
    decision = at_second_rung(make_decider(trial(0, (0.2, 0.9), status="finished")), *NEAR_ORIGINAL)[5]
    # None dominates it, so it is kept, but it adds next to nothing.
    assert decision.keep and not decision.go_on
    assert decision.reason == "rank 6 of 6 at rung 2, the best 2 go on"


def test_rung_that_an_earlier_one_of_its_trial_dominates_is_not_shielded():
    decide = make_decider(trial(0, (0.2, 0.5), status="finished"))
    at_second_rung(decide, *IN_THE_MIDDLE[:5])
    assert not decide.decide(trial(20, (0.3, 0.61), (0.305, 0.605)), 2, RUNGS).go_on


def test_rung_that_is_judged_again_takes_the_place_of_the_first():
    decide = make_decider()
    at_second_rung(decide, *map(worth, (0.8, 0.7, 0.2)))
    again = [decide.decide(trial(12, EARLY, worth(quality)), 2, RUNGS) for quality in (0.2, 0.3)]
    assert [decision.reason for decision in again] == ["rank 3 of 3 at rung 2, the best 1 go on"] * 2


def test_only_the_newest_trials_are_compared():
    decide = make_decider(settings={"newest_trials": 10})
    at_second_rung(decide, *[worth(0.9)] * 10)
    decisions = [decide.decide(trial(number, EARLY, worth(0.5)), 2, RUNGS) for number in range(20, 30)]
    # The seventh is the first that sees only three better ones.
    assert going(decisions) == [False] * 6 + [True] * 4
    assert decisions[5].reason == "rank 5 of 10 at rung 2, the best 4 go on"


@pytest.mark.parametrize("window", [10, 512])
def test_decider_of_a_resumed_sweep_decides_as_if_it_had_never_been_interrupted(window):
    draw = random.Random(0)
    settings, numbers = {"newest_trials": window}, list(range(40))
    decide = make_decider(settings=settings)
    draw.shuffle(numbers)
    for number in numbers:
        record = trial(number, EARLY, (draw.random(), draw.random()))
        for rung in (1, 2):
            decide.decide(record, rung, RUNGS)
        decide.sweep_state.update(record)
    resumed = RungDecider(
        make_sweep(early_stopping={"reduction": 3, "ties": "crowding", **settings}),
        SweepState(decide.sweep_state.criteria, 2, decide.sweep_state.records.values()),
    )
    for number in (0, 20, 41, 42):
        record = trial(number, EARLY, (draw.random(), draw.random()))
        assert decide.decide(record, 2, RUNGS) == resumed.decide(record, 2, RUNGS)


def test_rung_is_kept_unless_it_can_never_join_the_front():
    decide = make_decider(trial(0, worth(0.5), status="finished"))
    assert [
        decide.decide(trial(1, point), 1, RUNGS).keep for point in (worth(0.6), worth(0.5), worth(0.4))
    ] == [True, True, False]


def test_last_rung_alone_is_kept_where_only_the_last_counts():
    decide = make_decider(search={"select": "last"})
    path = [worth(0.5), worth(0.7), worth(0.6)]
    assert [decide.decide(trial(1, *path[:rung]), rung, 3).keep for rung in (1, 2, 3)] == [False, False, True]


def test_stopped_trial_knows_whether_early_stopping_ended_it():
    low = at_second_rung(make_decider(), *map(worth, (0.8, 0.7, 0.6)))[2]
    unfit = make_decider().decide(trial(0, (math.nan, 0.9)), 1, RUNGS)
    record = trial(0, EARLY, status="stopped")
    assert stopped_early(replace(record, reason=low.reason)) and stopped_early(
        replace(record, reason=unfit.reason)
    )
    assert not stopped_early(replace(record, reason="budget.worker_hours = 2 is used up"))
    assert not stopped_early(replace(record, reason="asked to stop by `lethe stop`"))
    assert not stopped_early(replace(record, status="failed", reason="rank 1 was lost"))
