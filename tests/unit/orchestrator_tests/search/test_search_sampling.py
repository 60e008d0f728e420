import itertools
import statistics

import pytest

from orchestrator.search.study import Study
from orchestrator.storage.trial_records import TrialRecord
from tests.support.sweeps.study_with_known_optimum import (
    NINE_POINTS,
    RATE,
    SAMPLERS,
    both_parts,
    finish,
    make_sweep,
    run,
)


@pytest.fixture
def open_study(tmp_path):
    def opened(sweep, warm=()):
        return Study.open(tmp_path / "study.journal", sweep, warm)

    return opened


def looked_at(study):
    """What the sampler sees: params and state of every trial."""
    return [(trial.params, trial.state.name) for trial in study._proposer.memory.trials.values()]


def warm_record(number, params, status="finished", **values):
    metrics = both_parts(**(values or {"mass": 0.5, "utility": 0.5}))
    return TrialRecord(f"earlier/t{number:04d}", number, status, params, metrics, [metrics])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_study_asks_for_active_keys_inside_their_domains_and_keeps_to_the_budget(open_study, sampler):
    # GP and TPE sample at random for their first ten trials.
    study = open_study(make_sweep(sampler=sampler, trials=12))
    proposed = run(study)
    assert [number for number, _ in proposed] == list(range(12))
    for _, params in proposed:
        assert ("forget.npo.beta" in params) == (params["forget.method"] == "npo")
        assert ("token_belief.top_k" in params) == (params["beliefs"] == "token")
        assert 1e-6 <= params["optimizer.learning_rate"] <= 1e-4
        assert isinstance(params.get("token_belief.top_k", 1), int)
    assert len({str(params) for _, params in proposed}) == 12
    assert study.ask() is None and not study.exhausted and study.remaining() == 0
    assert study.ask_s > 0


def test_another_seed_asks_for_other_trials(tmp_path):
    first, second = (run(Study.open(tmp_path / f"{seed}.journal", make_sweep(seed=seed))) for seed in (0, 1))
    assert not {str(params) for _, params in first} & {str(params) for _, params in second}


@pytest.mark.parametrize("sampler", ["tpe", "qmc", "nsga2"])
def test_study_tries_every_point_of_a_small_space_once(open_study, sampler):
    study = open_study(make_sweep(NINE_POINTS, trials=20, sampler=sampler))
    proposed = run(study)
    assert len(proposed) == 9
    assert {(params["forget.method"], params["epochs"]) for _, params in proposed} == set(
        itertools.product(["graddiff", "npo", "wga"], [1, 2, 3])
    )
    assert study.exhausted


def test_study_refuses_duplicates_of_all_trials_also_after_a_restart(open_study):
    sweep = make_sweep(NINE_POINTS, trials=9)
    study = open_study(sweep)
    for _ in range(3):
        study.ask()
    study.fail(0, "out of memory")
    study.tell_rung(1, 1, both_parts(mass=0.5, utility=0.5))
    study.stop(1, "ranks low")
    study = open_study(sweep)
    assert study.ask().number == 2  # it was running
    rest = [study.ask() for _ in range(6)]
    assert len({str(record.params) for record in study.records()}) == 9
    assert [one.number for one in rest] == list(range(3, 9))


def test_study_without_a_space_has_one_trial(open_study):
    study = open_study(make_sweep({}))
    assert run(study) == [(0, {})]
    assert study.exhausted


@pytest.mark.parametrize(("select", "seen"), [("best_rung", "COMPLETE"), ("last", "PRUNED")])
def test_sampler_learns_from_stopped_trials_where_every_rung_counts_and_never_from_failed_ones(
    open_study, select, seen
):
    sweep = make_sweep(RATE, trials=4, select=select)
    study = open_study(sweep)
    params = [study.ask().params for _ in range(4)]
    finish(study, 0, both_parts(mass=0.5, utility=0.5))
    study.tell_rung(1, 1, both_parts(mass=0.5, utility=0.5))
    study.stop(1, "ranks low")
    study.fail(2, "out of memory")
    expected = [(params[0], "COMPLETE"), (params[1], seen), (params[3], "RUNNING")]
    assert looked_at(study) == expected
    assert looked_at(open_study(sweep)) == expected


def test_tpe_learns_from_the_trials_before(open_study):
    study = open_study(make_sweep(RATE, trials=60))
    distances = []
    for one in iter(study.ask, None):
        distances.append(abs(one.params["optimizer.learning_rate"] - 0.3))
        finish(study, one.number, both_parts(mass=distances[-1], utility=-distances[-1]))
    # The median of uniform draws is 0.25: half of [0, 1] is nearer to 0.3 than that.
    assert statistics.median(distances[30:]) < 0.5 * 0.25


@pytest.mark.parametrize(("sampler", "trials"), [("tpe", 60), ("nsga2", 100), ("gp", 13)])
def test_sampler_stays_away_from_the_infeasible_region(open_study, sampler, trials):
    blocks = {"constraints": {"coherence": {"at_least": 0.5}}}
    # Other keys, because NSGA-II mutates one key in each child: the only one, were there no others.
    others = {f"{block}.weight": {"uniform": [0.1, 1.0]} for block in ("retain", "forget", "token_belief")}
    study = open_study(make_sweep(RATE | others, blocks, sampler=sampler, trials=trials))
    rates = []
    for one in iter(study.ask, None):
        rates.append(one.params["optimizer.learning_rate"])
        # All rates are on the front, were it not for the constraint.
        finish(study, one.number, both_parts(mass=1 - rates[-1], utility=1 - rates[-1], coherence=rates[-1]))
    newest = rates[10:] if sampler == "gp" else rates[trials // 2 :]
    assert sum(rate >= 0.5 for rate in newest) >= 0.8 * len(newest)


def test_constraints_are_stored_for_all_limits_at_the_selected_rung(open_study):
    blocks = {"constraints": {"coherence": {"at_least": 0.5, "at_most": 0.9}, "spread": {"at_most": 1.0}}}
    study = open_study(make_sweep(RATE, blocks))
    good, bad = (
        {"mass": mass, "utility": 0.5, "coherence": coherence, "spread": 2.0}
        for mass, coherence in ((0.5, 0.4), (0.9, 0.6))
    )
    study.ask()
    finish(study, 0, both_parts(**bad), both_parts(**good))
    (trial,) = study._proposer.memory.trials.values()
    expected = {"coherence at_least 0.5": 0.1, "coherence at_most 0.9": -0.5, "spread at_most 1": 1.0}
    assert trial.constraints == pytest.approx(expected)


def test_sampler_looks_at_the_newest_trials_and_the_front_only(open_study):
    sweep = make_sweep(RATE, sampler="random", trials=100, newest_trials=20)
    study = open_study(sweep)
    for one in iter(study.ask, None):
        # The first three make the front.
        mass = 0.1 * (one.number + 1) if one.number < 3 else 0.5
        finish(study, one.number, both_parts(mass=mass, utility=mass if one.number < 3 else 0.2))
        assert len(study._proposer.memory.trials) <= 20 + 3
    expected = [record.params for record in study.records() if record.number < 3 or record.number >= 80]
    assert [params for params, _ in looked_at(study)] == expected
    assert looked_at(open_study(sweep)) == looked_at(study)


def test_recipes_come_first_then_enqueued_trials_then_the_samplers(open_study):
    space = {
        "forget.method": {"choice": ["graddiff", "npo", "wga"]},
        "beliefs": {"choice": ["none", "token"]},
        "token_belief.top_k": {"log_int": [1, 256], "when": {"beliefs": "token"}},
        "optimizer.learning_rate": {"log_uniform": [1e-6, 1e-4]},
    }
    enqueue = [
        {"forget.method": "wga", "beliefs": "none", "optimizer.learning_rate": 1e-5},
        {"forget.method": "wga"},
    ]
    sweep = make_sweep(space, trials=6, recipes=["npo", "bs_t"], enqueue=enqueue)
    study = open_study(sweep)
    npo = study.ask().params
    assert (npo["forget.method"], npo["beliefs"]) == ("npo", "none") and "optimizer.learning_rate" in npo
    study = open_study(sweep)  # none of them comes twice
    assert study.ask().params == npo
    bs_t = study.ask().params
    assert (bs_t["forget.method"], bs_t["beliefs"], bs_t["token_belief.top_k"]) == ("npo", "token", 20)
    assert study.ask().params == enqueue[0]
    assert study.ask().params["forget.method"] == "wga"
    assert len([study.ask(), study.ask()]) == 2 and study.ask() is None


def test_entry_that_repeats_a_trial_is_passed_over(open_study):
    twice = {"forget.method": "npo", "epochs": 2.0}
    study = open_study(make_sweep(NINE_POINTS, enqueue=[twice, twice, {"epochs": 3}], trials=3))
    first, second, third = (params for _, params in run(study))
    assert (
        first == twice
        and isinstance(first["epochs"], int)
        and second["epochs"] == 3
        and third not in (first, second)
    )


def test_warm_trials_teach_the_sampler_and_are_no_trials_of_the_sweep(open_study):
    # The best region is known before the first trial.
    points = [index / 40 for index in range(1, 40)]
    warm = [
        warm_record(index, {"optimizer.learning_rate": x}, mass=abs(x - 0.3), utility=1 - abs(x - 0.3))
        for index, x in enumerate(points)
    ]
    sweep = make_sweep(RATE, trials=10)
    study = open_study(sweep, warm)
    proposed = run(study)
    assert len(proposed) == len(study.records()) == 10
    assert (
        statistics.median(abs(params["optimizer.learning_rate"] - 0.3) for _, params in proposed) < 0.5 * 0.25
    )
    assert all(record.number == index for index, record in enumerate(study.records()))


def test_resumed_study_goes_on_alike_with_the_same_warm_trials(tmp_path):
    warm = [
        warm_record(
            index, {"optimizer.learning_rate": 0.05 * (index + 1)}, mass=0.1 * index, utility=0.1 * index
        )
        for index in range(9)
    ]
    warm.append(warm_record(9, {"optimizer.learning_rate": 0.9}, "stopped"))
    sweep = make_sweep(RATE, trials=12, sampler="nsga2", newest_trials=20)
    whole = run(Study.open(tmp_path / "whole.journal", sweep, warm))
    in_pieces = [
        pair for _ in range(4) for pair in run(Study.open(tmp_path / "pieces.journal", sweep, warm), trials=3)
    ]
    assert in_pieces == whole


def test_points_of_warm_trials_are_tried_again_only_where_a_person_names_them(open_study):
    points = [
        {"forget.method": method, "epochs": epochs}
        for method, epochs in itertools.product(["graddiff", "npo", "wga"], [1, 2, 3])
    ]
    warm = [warm_record(index, params) for index, params in enumerate(points[:7])]
    study = open_study(make_sweep(NINE_POINTS, trials=9, enqueue=[points[0]]), warm)
    proposed = [params for _, params in run(study)]
    assert proposed[0] == points[0]
    assert sorted(map(str, proposed[1:])) == sorted(map(str, points[7:]))
    assert study.exhausted
