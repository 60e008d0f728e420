import math
import pickle
import threading

import optuna
import pytest

from orchestrator.search.study import Study
from search_spaces.user_errors import UserError
from tests.support.sweeps.study_with_known_optimum import SPACE, both_parts, finish, make_sweep, measured, run

GOOD = both_parts(mass=0.5, utility=0.5)


@pytest.fixture
def now():
    """The time that the study sees, in seconds."""
    return [100.0]


@pytest.fixture
def restarted(tmp_path, now):
    return lambda: Study.open(tmp_path / "study.journal", make_sweep(), clock=lambda: now[0])


@pytest.fixture
def study(restarted):
    return restarted()


def stored(folder):
    """The study as any program that knows Optuna reads it."""
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    )
    return optuna.load_study(study_name="little", storage=storage)


def test_finished_trial_holds_both_objectives_for_anyone_who_opens_the_journal(tmp_path, study):
    proposed = run(study)
    loaded = stored(tmp_path)
    assert loaded.metric_names == ["mass", "utility"]
    assert [direction.name for direction in loaded.directions] == ["MINIMIZE", "MAXIMIZE"]
    expected = [
        [measured(params)["validation/mass"], measured(params)["validation/utility"]]
        for _, params in proposed
    ]
    assert [trial.values for trial in loaded.trials] == expected


def test_finished_trial_is_reported_with_its_best_rung_on_the_scale_of_the_objectives(tmp_path):
    objectives = {
        "mass": {"direction": "minimize", "reference": 1.0, "transform": "log", "clip": [0.01, 1.0]},
        "utility": {"direction": "maximize", "reference": 0.0, "clip": [0.0, 0.8]},
    }
    study = Study.open(tmp_path / "study.journal", make_sweep(blocks={"objectives": objectives}))
    number = study.ask().number
    finish(
        study,
        number,
        both_parts(mass=0.9, utility=0.9),
        both_parts(mass=0.5, utility=0.5),
        both_parts(mass=0.001, utility=0.9),
    )
    (trial,) = stored(tmp_path).trials
    assert trial.values == pytest.approx([math.log(0.01), 0.8])
    assert trial.user_attrs["end"]["rung"] == 2


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        (
            {"validation/mass": math.nan, "validation/utility": 0.5},
            "not a finite number: validation/mass = nan",
        ),
        (
            {"validation/mass": 0.5, "validation/utility": -math.inf},
            "not a finite number: validation/utility = -inf",
        ),
        (
            {"validation/mass": 0.5, "validation/utility": 0.5, "test/mass": math.inf},
            "not a finite number: test/mass = inf",
        ),
        (
            {"validation/mass": 0.5, "validation/utility": 0.5, "test/rouge": math.nan},
            "not a finite number: test/rouge = nan",
        ),
        ({"validation/mass": 0.5, "test/utility": 0.5}, "no value for the objective utility"),
        ({}, "no value for the objectives mass, utility"),
    ],
)
def test_trial_without_usable_metrics_has_failed_with_a_reason(tmp_path, study, metrics, reason):
    finish(study, study.ask().number, metrics, GOOD)
    (record,) = study.records()
    assert (record.status, record.reason) == ("failed", reason)
    assert stored(tmp_path).trials[0].state == optuna.trial.TrialState.FAIL


def test_trial_that_was_never_measured_has_failed(study):
    study.finish(study.ask().number)
    assert study.record(0).reason == "no value for the objectives mass, utility"


@pytest.mark.parametrize("end", [lambda study: study.finish(0), lambda study: study.stop(0, "ranks low")])
def test_trial_that_was_not_a_number_at_an_early_rung_has_failed(study, end):
    study.ask()
    for rung, metrics in enumerate((GOOD, {**GOOD, "train/loss_nats": math.nan}, GOOD), 1):
        study.tell_rung(0, rung, metrics)
    end(study)
    assert (study.record(0).status, study.record(0).reason) == (
        "failed",
        "not a number at rung 2: train/loss_nats",
    )


def test_infinite_metric_beside_the_objectives_is_no_failure(study):
    finish(study, study.ask().number, {**GOOD, "test/forget_quality_log10": -math.inf})
    assert study.record(0).metrics["test/forget_quality_log10"] == -math.inf


def test_stopped_trial_is_pruned_with_its_reason_and_keeps_its_rungs(tmp_path, study):
    study.ask()
    study.tell_rung(0, 1, GOOD)
    study.stop(0, "ranks low at rung 1")
    record = study.record(0)
    assert (record.status, record.reason, record.rungs) == ("stopped", "ranks low at rung 1", [GOOD])
    (trial,) = stored(tmp_path).trials
    assert (trial.state, trial.values) == (optuna.trial.TrialState.PRUNED, None)


def test_record_tells_the_course_of_a_trial(study, now):
    proposed = study.ask()
    for rung in (1, 2, 10):
        study.tell_rung(0, rung, {"validation/mass": 1 / rung, "validation/utility": 0.5})
    running = study.record(0)
    assert (running.status, running.duration_s, running.metrics["validation/mass"], running.spent_s) == (
        "running",
        None,
        0.1,
        0.0,
    )
    study.tell_test(0, 10, {"test/mass": 0.2})
    now[0] = 107.5
    study.finish(0)
    finished = study.record(0)
    assert [rung["validation/mass"] for rung in finished.rungs] == [1.0, 0.5, 0.1]
    assert finished.metrics == {"validation/mass": 0.1, "validation/utility": 0.5, "test/mass": 0.2}
    assert (finished.trial_id, finished.status, finished.params) == ("t0000", "finished", proposed.params)
    assert (finished.started_at, finished.finished_at, finished.duration_s, finished.spent_s) == (
        100.0,
        107.5,
        7.5,
        7.5,
    )
    assert study.records() == [finished]


def test_time_of_an_attempt_that_a_dead_driver_cut_off_counts_up_to_its_last_rung(restarted, now):
    study = restarted()
    study.ask()
    now[0] = 104.0
    study.tell_rung(0, 1, GOOD)
    now[0] = 1000.0  # the driver died somewhere between
    study = restarted()
    waiting = study.record(0)
    assert (waiting.status, waiting.started_at, waiting.rungs, waiting.spent_s) == ("running", None, [], 4.0)
    study.ask()
    now[0] = 1003.0  # and again, before the first rung
    study = restarted()
    study.ask()
    finish(study, 0, GOOD)
    now[0] = 1010.0
    study = restarted()
    assert (study.record(0).started_at, study.record(0).duration_s, study.record(0).spent_s) == (
        1003.0,
        0.0,
        4.0,
    )


def test_second_end_of_a_trial_changes_nothing(study):
    finish(study, study.ask().number, GOOD)
    before = study.records()
    study.fail(0, "late")
    study.stop(0, "late")
    study.finish(0)
    study.tell_rung(0, 9, {"validation/mass": 0.0})
    study.tell_test(0, 1, {"test/mass": 0.0})
    assert study.records() == before


def test_annotations_reach_trials_that_have_ended(tmp_path, study):
    study.fail(study.ask().number, "out of memory")
    study.annotate(0, "mlflow_run_id", "abc")
    study.annotate(0, "lane", 1)
    assert study.record(0).mlflow_run_id == "abc"
    again = Study.read(tmp_path / "study.journal", make_sweep())
    assert again.records()[0].mlflow_run_id == "abc"
    assert again.annotations(0) == {"mlflow_run_id": "abc", "lane": 1}


def test_reading_a_study_writes_nothing(tmp_path, study):
    study.ask()
    path = tmp_path / "study.journal"
    torn = path.read_bytes() + b'{"op_code": 5, "wor'
    path.write_bytes(torn)
    (record,) = Study.read(path, make_sweep()).records()
    assert record.status == "running"
    assert path.read_bytes() == torn


@pytest.mark.parametrize("exists", [False, True])
def test_reading_a_study_that_is_not_there_says_what_to_do(tmp_path, exists):
    path = tmp_path / "study.journal"
    if exists:
        path.touch()
    with pytest.raises(UserError, match="lethe run"):
        Study.read(path, make_sweep())
    assert path.exists() == exists


def test_asking_from_several_threads_hands_each_trial_out_once(tmp_path):
    study = Study.open(tmp_path / "study.journal", make_sweep(trials=12, sampler="random"))
    proposed = []
    threads = [threading.Thread(target=lambda: proposed.extend(run(study))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for number, _ in proposed) == list(range(12))
    assert [record.status for record in study.records()] == ["finished"] * 12


def test_study_is_pickled_without_its_journal(study):
    assert not vars(pickle.loads(pickle.dumps(study)))


@pytest.mark.parametrize("transform", ["none", "log"])
def test_importances_name_the_keys_that_matter_for_either_direction(tmp_path, transform):
    mass = {"direction": "minimize", "reference": 1.0, "clip": [0.01, 1.1], "transform": transform}
    blocks = {"objectives": {"mass": mass, "utility": {"direction": "maximize", "reference": 0.0}}}
    study = Study.open(tmp_path / "study.journal", make_sweep(blocks=blocks, sampler="random", trials=60))
    run(study)
    for objective in ("mass", "utility"):
        shares = study.importances(objective)
        assert next(iter(shares)) == "optimizer.learning_rate" and shares["optimizer.learning_rate"] > 0.5
        assert sum(shares.values()) == pytest.approx(1.0)
        assert set(shares) == set(SPACE)


def test_importances_are_empty_with_few_trials(study):
    run(study)
    assert study.importances("mass") == {}
