import json
import math
from dataclasses import replace
from random import Random

import pytest

from orchestrator.pareto.front import GrowingFront, build_front, front_json, hypervolume_history
from orchestrator.pareto.objectives import Criteria, Limit, Objective
from orchestrator.storage.trial_records import TrialRecord
from search_spaces.settings.sweep_settings import SweepSettings
from tests.support.sweeps.random_trials import CRITERIA, interleaved, measured, random_trials, record, up_to

OBJECTIVES = (Objective("mass", "minimize", 1.0), Objective("utility", "maximize", 0.0))
EVERY, LAST = Criteria(OBJECTIVES), Criteria(OBJECTIVES, every_rung=False)


def both(*point, **more):
    """A rung with the same (mass, utility) on both parts."""
    return measured(point, point, **more)


def sweep(**more):
    objectives = {
        "mass": {"direction": "minimize", "reference": 1.0},
        "utility": {"direction": "maximize", "reference": 0.0},
    }
    return SweepSettings.model_validate(
        {
            "name": "little",
            "model": {"base": "scratch"},
            "data": {"benchmark": "closed_world"},
            "objectives": objectives,
            **more,
        }
    )


def dominates(one, other):
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def slow_front(records, criteria):
    """Keys of the front and of what was chosen on the validation part, by comparing every pair."""
    known = {}
    for trial in records:
        if trial.status not in ("finished", "stopped") or (
            trial.status == "stopped" and not criteria.every_rung
        ):
            continue
        for rung, metrics in enumerate(trial.rungs, start=1):
            points = criteria.point(metrics), criteria.point(metrics, "test")
            if (
                None not in points
                and criteria.feasible(metrics)
                and (criteria.every_rung or rung == len(trial.rungs))
            ):
                known[trial.trial_id, rung] = points
    chosen = {
        key
        for key, (mine, _) in known.items()
        if not any(dominates(other, mine) for other, _ in known.values())
    }
    front = {key for key in chosen if not any(dominates(known[other][1], known[key][1]) for other in chosen)}
    return front, chosen


def test_front_holds_the_trade_offs_from_best_to_worst_in_the_first_objective():
    front = build_front(
        [record(0, both(0.6, 0.9)), record(1, both(0.2, 0.5)), record(2, both(0.7, 0.8))], EVERY
    )
    assert [member.record.trial_id for member in front.members] == ["t0001", "t0000"]
    assert front.trial_ids == {"t0000", "t0001"}
    # Two overlapping boxes up to the reference point (1, 0).
    assert front.hypervolume == pytest.approx(0.8 * 0.5 + 0.4 * 0.4)


def test_every_rung_of_a_trial_may_be_on_the_front():
    front = build_front([record(7, both(0.6, 0.9), both(0.4, 0.6), both(0.5, 0.5))], EVERY)
    assert [(member.key, member.name) for member in front.members] == [
        (("t0007", 2), "t0007@2"),
        (("t0007", 1), "t0007@1"),
    ]
    assert front.keys == {("t0007", 1), ("t0007", 2)} and front.trial_ids == {"t0007"}


def test_member_at_the_end_of_its_trial_goes_by_the_trials_name():
    members = build_front([record(7, both(0.6, 0.9), both(0.4, 0.6))], EVERY).members
    assert [member.name for member in members] == ["t0007", "t0007@1"]


def test_stopped_trial_may_be_on_the_front_with_the_rungs_that_were_kept():
    stopped = record(0, both(0.6, 0.9), measured((0.1, 1.0)), both(0.5, 0.8), status="stopped")
    assert build_front([stopped], EVERY).keys == {("t0000", 1), ("t0000", 3)}


def test_last_rung_alone_counts_where_the_sweep_says_so():
    whole, stopped = record(0, both(0.1, 1.0), both(0.5, 0.5)), record(1, both(0.1, 1.0), status="stopped")
    assert build_front([whole, stopped], LAST).keys == {("t0000", 2)}


def test_front_chooses_on_validation_and_reports_on_test():
    chosen, lucky_on_test = (
        record(0, measured((0.2, 0.9), (0.3, 0.8))),
        record(1, measured((0.3, 0.8), (0.1, 1.0))),
    )
    front = build_front([chosen, lucky_on_test], EVERY)
    assert [member.record for member in front.members] == [chosen]
    assert front.members[0].objectives == {"mass": 0.3, "utility": 0.8}
    assert front.members[0].validation == {"mass": 0.2, "utility": 0.9}


def test_front_drops_a_member_that_another_dominates_on_test():
    worse, better = measured((0.2, 0.5), (0.5, 0.5)), measured((0.3, 0.6), (0.4, 0.6))
    assert build_front([record(0, worse), record(1, better)], EVERY).trial_ids == {"t0001"}
    assert build_front([record(0, worse, better)], EVERY).keys == {("t0000", 2)}


def test_front_keeps_duplicates():
    assert build_front([record(0, both(0.2, 0.5)), record(1, both(0.2, 0.5))], EVERY).trial_ids == {
        "t0000",
        "t0001",
    }


@pytest.mark.parametrize("status", ["failed", "running"])
def test_front_leaves_out_trials_without_a_result(status):
    assert build_front(
        [record(0, both(0.0, 1.0), status=status), record(1, both(0.5, 0.5))], EVERY
    ).trial_ids == {"t0001"}


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_front_leaves_out_rungs_without_finite_objectives_on_both_parts(value, part):
    bad = both(0.0, 1.0) | {f"{part}/mass": value}
    assert build_front([record(0, bad), record(1, both(0.5, 0.5))], EVERY).trial_ids == {"t0001"}


def test_front_leaves_out_what_is_outside_a_limit_on_the_validation_part():
    criteria = Criteria(OBJECTIVES, (Limit("utility", 0.4, "at_least"), Limit("fluency", 0.5, "at_least")))
    rungs = [
        both(0.1, 0.3, fluency=1.0),
        both(0.2, 0.5, fluency=0.1),
        both(0.3, 0.5),
        measured((0.4, 0.5), (0.4, 0.3), fluency=1.0),
    ]
    assert build_front([record(0, *rungs)], criteria).keys == {("t0000", 4)}


def test_front_compares_on_the_scale_of_the_objectives():
    clipped = (Objective("mass", "minimize", 1.0, "log", (0.1, 1.0)), OBJECTIVES[1])
    front = build_front(
        [record(0, both(0.01, 0.5)), record(1, both(0.0, 0.5)), record(2, both(0.5, 0.6))], Criteria(clipped)
    )
    # Both are as good as the clip's bound: equals, whose values are still reported as they are.
    assert [member.objectives["mass"] for member in front.members] == [0.01, 0.0, 0.5]
    assert front.hypervolume == pytest.approx(math.log(10) * 0.5 + math.log(2) * 0.1)


def test_front_of_nothing_is_empty():
    front = build_front([], EVERY)
    assert front.members == () and front.hypervolume == 0.0 and front.keys == frozenset()


@pytest.mark.parametrize("name", CRITERIA)
def test_growing_front_is_that_of_pairwise_comparison_in_any_order_of_arrival(name):
    criteria = CRITERIA[name]
    for seed in range(6):
        records = random_trials(seed)
        Random(seed).shuffle(records)
        front = GrowingFront(criteria)
        for count, trial in enumerate(records, start=1):
            front.add(trial)
            assert (front.reported().keys, front.chosen) == slow_front(records[:count], criteria)
        assert front.reported() == build_front(sorted(records, key=lambda trial: trial.number), criteria)


@pytest.mark.parametrize("name", CRITERIA)
def test_rung_that_would_not_join_never_does(name):
    """What would not join is not measured on the test part, and the front is as if everything had been."""
    criteria = CRITERIA[name]
    for seed in range(20):
        records = random_trials(seed)
        front, kept = GrowingFront(criteria), set()
        for trial, rung in interleaved(records, seed):
            if rung is None:
                front.add(forgetting_the_rest(trial, kept))
            elif rung and front.would_join(up_to(trial, rung), rung):
                kept.add((trial.trial_id, rung))
        members, chosen = slow_front(records, criteria)
        assert chosen <= kept
        assert (front.reported().keys, front.chosen) == (members, chosen)


def forgetting_the_rest(trial: TrialRecord, kept):
    """The trial without the test part of rungs that were not kept; the schedule's last one is always
    measured."""
    rungs = [
        metrics
        if (trial.trial_id, rung) in kept or (trial.status == "finished" and rung == len(trial.rungs))
        else {key: value for key, value in metrics.items() if not key.startswith("test")}
        for rung, metrics in enumerate(trial.rungs, start=1)
    ]
    return replace(trial, rungs=rungs, metrics=rungs[-1] if rungs else {})


def test_rung_that_an_earlier_one_of_its_own_trial_dominates_would_not_join():
    running = record(0, measured((0.2, 0.5)), measured((0.3, 0.5)), measured((0.3, 0.6)), status="running")
    assert [GrowingFront(EVERY).would_join(running, rung) for rung in (1, 2, 3)] == [True, False, True]


def test_rung_is_compared_with_no_other_of_its_trial_where_the_last_one_alone_counts():
    running = record(0, measured((0.2, 0.5)), measured((0.3, 0.5)), status="running")
    assert GrowingFront(LAST).would_join(running, 2)


@pytest.mark.parametrize(
    "metrics",
    [{}, measured((math.nan, 0.5)), measured((0.2, 0.3))],
    ids=["nothing", "NaN", "outside a limit"],
)
def test_rung_that_can_never_be_on_the_front_would_not_join_and_gains_nothing(metrics):
    front = GrowingFront(Criteria(OBJECTIVES, (Limit("utility", 0.4, "at_least"),)))
    assert not front.would_join(record(0, metrics, status="running"), 1)
    assert front.gain(metrics) == 0.0


def test_gain_is_the_hypervolume_that_a_rung_would_add_on_the_validation_part():
    front = GrowingFront(EVERY)
    assert front.gain(measured((0.5, 0.5))) == pytest.approx(0.25)
    front.add(record(0, measured((0.5, 0.5), (0.9, 0.1))))
    assert front.validation_hypervolume == pytest.approx(0.25)
    assert front.gain(measured((0.25, 0.5))) == pytest.approx(0.125)
    assert front.gain(measured((0.6, 0.4))) == 0.0


def test_hypervolume_history_follows_the_order_of_ending():
    late, early = (
        record(0, both(0.5, 0.5), finished_at=20.0),
        record(1, both(0.8, 0.9), finished_at=10.0, status="stopped"),
    )
    without_test = record(2, measured((0.1, 0.9)), finished_at=15.0)
    history = hypervolume_history(
        [late, early, without_test, record(3, both(0.0, 1.0), status="failed")], EVERY
    )
    assert history == pytest.approx([0.18, 0.18, 0.18 + 0.3 * 0.5])
    assert history[-1] == pytest.approx(build_front([late, early], EVERY).hypervolume)


def test_front_json_has_the_promised_shape():
    records = [
        record(0, measured((0.2, 0.5), (0.25, 0.5)), both(0.3, 0.4), mlflow_run_id="abc"),
        record(1, both(0.9, 0.1), status="failed"),
        record(2, measured((0.9, 0.1)), status="stopped"),
    ]
    baselines = {"original": {"test/mass": 0.99, "test/utility": 0.98, "test/other": 1.0}}
    found = front_json(sweep(), records, baselines)
    assert json.loads(json.dumps(found)) == {
        "sweep": "little",
        "objectives": [
            {"name": "mass", "direction": "minimize"},
            {"name": "utility", "direction": "maximize"},
        ],
        "reference_point": {"mass": 1.0, "utility": 0.0},
        "hypervolume": 0.375,
        "trials": 3,
        "failed": 1,
        "stopped": 1,
        "front": [
            {
                "name": "t0000@1",
                "trial_id": "t0000",
                "rung": 1,
                "objectives": {"mass": 0.25, "utility": 0.5},
                "params": {"retain.weight": 0.0},
                "mlflow_run_id": "abc",
            }
        ],
        "baselines": {
            "original": {"mass": 0.99, "utility": 0.98},
            "prompted": None,
            "retrained": None,
            "retrained_twin": None,
        },
    }
