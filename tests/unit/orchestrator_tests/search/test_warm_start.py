import json
import math
import shutil

import pytest

from orchestrator.search.study import Study
from orchestrator.search.warm_start import point_of, read_warm_start, warm_trials
from orchestrator.storage.sweep_folder import SweepFolder
from orchestrator.storage.trial_records import TrialRecord
from search_spaces.settings.space import apply, trial_value
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError
from tests.support.sweeps.study_with_known_optimum import SPACE, both_parts, finish, make_sweep

GOOD = both_parts(mass=0.5, utility=0.5)
METHOD = {"forget.method": {"choice": ["graddiff", "npo", "wga"]}}
RATE = {"optimizer.learning_rate": {"log_uniform": [1e-6, 1e-4]}}


def begin(root, name, space, blocks=None, **search):
    """A sweep with its study, open for writing."""
    sweep = make_sweep(space, blocks, **search).model_copy(update={"name": name})
    folder = SweepFolder(root, name)
    folder.create(sweep, "earlier.yaml")
    return folder, sweep, Study.open(folder.journal, sweep)


def learns_from(*sources, space=SPACE, blocks=None):
    return make_sweep(space, blocks, warm_start=list(sources))


def read(sweep, root, tracked=()):
    return read_warm_start(sweep, root, lambda name: {"old": list(tracked)}[name])


def test_warm_start_reads_finished_and_stopped_trials_and_only_what_the_search_needs(tmp_path):
    _, _, study = begin(tmp_path, "earlier", SPACE)
    params = [study.ask().params for _ in range(5)]
    finish(study, 0, {**GOOD, "train/loss_nats": 3.0}, both_parts(mass=0.9, utility=0.9))
    study.tell_rung(1, 1, GOOD)
    study.stop(1, "ranks low")
    study.fail(2, "out of memory")
    study.stop(3, "never measured")
    found = read(learns_from("earlier"), tmp_path)
    assert [(record.trial_id, record.number, record.status) for record in found] == [
        ("earlier/t0000", 0, "finished"),
        ("earlier/t0001", 1, "stopped"),
    ]
    assert [record.params for record in found] == params[:2]
    assert found[0].rungs == [
        {"validation/mass": 0.9, "validation/utility": 0.9},
        {"validation/mass": 0.5, "validation/utility": 0.5},
    ]


def test_warm_start_reads_a_sweep_by_its_folder(tmp_path):
    folder, _, study = begin(tmp_path / "elsewhere", "earlier", RATE)
    finish(study, study.ask().number, GOOD)
    assert len(read(learns_from(str(folder.path), space=RATE), tmp_path)) == 1


def test_warm_start_leaves_out_trials_without_this_sweeps_objectives(tmp_path):
    _, _, study = begin(tmp_path, "earlier", RATE)
    for _ in range(2):
        study.ask()
    finish(study, 0, GOOD)
    finish(study, 1, {**GOOD, "validation/coherence": 0.5})
    objectives = {
        "mass": {"direction": "minimize", "reference": 1.0},
        "coherence": {"direction": "maximize", "reference": 0.0},
    }
    found = read(learns_from("earlier", space=RATE, blocks={"objectives": objectives}), tmp_path)
    assert [record.trial_id for record in found] == ["earlier/t0001"]


def test_of_two_trials_at_one_point_the_first_counts(tmp_path):
    for name, mass in (("one", 0.1), ("two", 0.2)):
        _, _, study = begin(tmp_path, name, METHOD, enqueue=[{"forget.method": "wga"}])
        finish(study, study.ask().number, both_parts(mass=mass, utility=0.5))
    (record,) = read(learns_from("two", "one", space=METHOD), tmp_path)
    assert (record.trial_id, record.metrics["validation/mass"]) == ("two/t0000", 0.2)


def test_warm_start_from_mlflow_asks_for_the_sweep_by_name(tmp_path):
    tracked = [TrialRecord("t0003", 3, "finished", {"optimizer.learning_rate": 1e-5}, GOOD, [GOOD])]
    (record,) = read(learns_from("mlflow:old", space=RATE), tmp_path, tracked)
    assert (record.trial_id, record.params) == ("mlflow:old/t0003", {"optimizer.learning_rate": 1e-5})
    assert record.metrics == {"validation/mass": 0.5, "validation/utility": 0.5}


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ("earliar", 'search.warm_start: there is no sweep of this name in .* Did you mean "earlier"'),
        ("empty", "this sweep has no study yet"),
        (
            "earlier",
            "the sampler can learn from none of its trials .*Search over the same keys, or remove it",
        ),
    ],
)
def test_source_that_teaches_nothing_is_refused_with_a_remedy(tmp_path, source, remedy):
    begin(tmp_path, "earlier", SPACE)
    begin(tmp_path, "empty", SPACE)[0].journal.unlink()
    with pytest.raises(UserError, match=remedy):
        read(learns_from(source), tmp_path)


POINTS = [
    # This sweep's space and trial, the earlier trial's searched keys, and the point.
    (METHOD, {}, {"forget.method": "wga"}, {"forget.method": "wga"}),
    (METHOD, {}, {"forget.method": "ga"}, None),  # outside its domain
    # Fixed here, searched there: only where the values agree.
    (
        METHOD,
        {"retain": {"weight": 2.0}},
        {"forget.method": "wga", "retain.weight": 2.0},
        {"forget.method": "wga"},
    ),
    (METHOD, {"retain": {"weight": 2.0}}, {"forget.method": "wga", "retain.weight": 1.0}, None),
    # Searched here, fixed there: its own value counts.
    (
        METHOD | {"epochs": {"int": [5, 20]}},
        {},
        {"forget.method": "wga"},
        {"forget.method": "wga", "epochs": 10},
    ),
    (METHOD | {"epochs": {"int": [1, 5]}}, {}, {"forget.method": "wga"}, None),
    # Conditions are those of this sweep.
    (
        SPACE,
        {},
        {"forget.method": "npo"},
        {"forget.method": "npo", "forget.npo.beta": 0.1, "optimizer.learning_rate": 1e-5, "beliefs": "none"},
    ),
    (SPACE, {}, {"forget.method": "wga", "forget.npo.beta": 0.7}, None),
    ({"retain.weight": {"uniform": [0.5, 5.0]}}, {}, {"retain.weight": 2}, {"retain.weight": 2.0}),
]


@pytest.mark.parametrize(("space", "trial", "searched", "point"), POINTS)
def test_point_of_an_earlier_trial_in_this_space(space, trial, searched, point):
    sweep = make_sweep(space, {"trial": trial})
    settings = apply(
        SweepSettings.model_validate({"name": "a", "model": {"base": "scratch"}, "data": sweep.data}).trial,
        searched,
    )
    assert point_of(sweep, searched, lambda key: trial_value(settings, key)) == point


def test_point_needs_every_active_key_where_only_searched_ones_are_known():
    params = {"forget.method": "wga"}
    assert point_of(make_sweep(METHOD), params, params.__getitem__) == params
    assert point_of(make_sweep(SPACE), params, params.__getitem__) is None
    assert point_of(make_sweep(METHOD), params | {"no.such.key": 1}, params.__getitem__) is None


def test_resumed_sweep_learns_from_what_was_read_at_its_first_start(tmp_path):
    source, _, study = begin(tmp_path, "earlier", RATE)
    for _ in range(2):
        study.ask()
    finish(study, 0, GOOD)
    sweep = learns_from("earlier", space=RATE, blocks={"constraints": {"coherence": {"at_least": 0.5}}})
    folder = SweepFolder(tmp_path, "little")
    folder.create(sweep, "mine.yaml")
    first = warm_trials(folder, sweep, {}.__getitem__)
    Study.open(folder.journal, sweep, first)
    finish(study, 1, GOOD)
    assert warm_trials(folder, sweep, {}.__getitem__) == first
    shutil.rmtree(source.path)
    assert warm_trials(folder, sweep, {}.__getitem__) == first
    assert len(first) == len(json.loads((folder.path / "warm_start.json").read_text())) == 1
    # What the earlier sweep did not measure is infinitely far outside.
    (warm,) = Study.open(folder.journal, sweep, first)._proposer.memory.trials.values()
    assert warm.constraints == {"coherence at_least 0.5": math.inf}


def test_sweep_without_a_warm_start_reads_and_writes_nothing(tmp_path):
    assert warm_trials(SweepFolder(tmp_path, "little"), make_sweep(), {}.__getitem__) == []
    assert list(tmp_path.iterdir()) == []
