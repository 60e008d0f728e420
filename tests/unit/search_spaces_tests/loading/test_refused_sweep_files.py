"""Settings that are refused, each with its key and a remedy."""

import json

import pytest

from search_spaces.loading.loader import load_sweep
from tests.support.sweeps.sweep_files import SMALL


def test_unknown_key_is_refused_with_the_nearest_one(message):
    assert message(trial={"token_belief": {"top_kk": 5}}).endswith(
        'trial.token_belief.top_kk: unknown key (given: 5). Did you mean "top_k"? '
        "Allowed: weight, top_k, top_p, temperature, exclude_target, guard_target."
    )


def test_all_problems_come_at_once(message):
    text = message(
        trial={"epochs": "ten", "optimizer": {"learning_rate": 0}}, resource={}, search={"sampler": "tpee"}
    )
    assert "4 problems" in text
    assert 'trial.epochs: has the wrong type (given: "ten"). Allowed: a whole number.' in text
    assert "trial.optimizer.learning_rate: is out of range (given: 0). Allowed: greater than 0." in text
    assert 'Did you mean "resources"?' in text
    assert 'Did you mean "tpe"? Allowed: tpe, random, qmc, nsga2, gp.' in text


def test_keys_of_the_data_block_are_named_without_the_benchmark(message):
    text = message(data={"benchmark": "tofu", "forgets": "forget10", "forget": "forgt10", "authors": 500})
    assert 'data.forgets: unknown key (given: "forget10"). Did you mean "forget"?' in text
    assert (
        'data.forget: is none of the choices (given: "forgt10"). Did you mean "forget10"? Allowed: forget01,'
        " forget05, forget10." in text
    )
    assert "data.authors: is out of range (given: 500). Allowed: less than or equal to 200." in text


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        (
            {"benchmark": "tofuu"},
            'data.benchmark: is none of the choices (given: "tofuu"). Did you mean "tofu"?',
        ),
        ({}, "data.benchmark: is missing. Allowed: closed_world, tofu, muse, wmdp, local_files."),
        ({"benchmark": "local_files"}, "data.forget: is missing. JSONL of what must be forgotten."),
        (3, "data: has the wrong type (given: 3). Allowed: a block of `key: value` lines."),
    ],
)
def test_a_wrong_data_block_says_what_is_right(message, data, remedy):
    assert remedy in message(data=data)


def test_checks_over_a_block_name_the_block(message):
    assert "model.scratch: heads (3) must divide hidden_size (128)." in message(
        model={"base": "scratch", "scratch": {"heads": 3}}
    )
    assert "model: give `target`" in message(model={})
    assert "forget_people (50) must be smaller than people (40)" in message(
        data={"benchmark": "closed_world", "forget_people": 50}
    )


def test_a_name_that_is_no_folder_name_is_refused(message):
    assert 'it becomes a folder (given: "a/b").' in message(name="a/b")
    assert "name: has the wrong type (given: 5). Allowed: text; put it in quotes" in message(name=5)


def test_not_a_number_is_refused(message):
    assert "Allowed: a finite number." in message("trial.optimizer.learning_rate=.nan")


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("trials", "not of the form key=value"),
        ("search.trails=3", 'search.trails: unknown key (given: 3). Did you mean "trials"?'),
        ("search.trials=[1", "--set: search.trials: not readable as YAML"),
        ("space.retain.wieght=null", 'is not in the space. Did you mean "retain.weight"?'),
        (
            "trial.retain.weight=2",
            (
                "has no effect, because the key is searched from 0.5 to 5, on a log scale. Add --set"
                " space.retain.weight=null."
            ),
        ),
        ("data.benchmark.x=2", "has nothing below it (given: 2). Give data.benchmark a plain value."),
    ],
)
def test_bad_override_is_refused_with_its_remedy(message, override, remedy):
    assert remedy in message(override)


@pytest.mark.parametrize(
    ("key", "domain", "remedy"),
    [
        (
            "retain.weight",
            {"log_uniform": [5, 0.5]},
            "space.retain.weight: inverted or empty bounds: low (5) must be below high (0.5)",
        ),
        (
            "retain.wieght",
            {"uniform": [1, 2]},
            'space.retain.wieght: no such trial key. Did you mean "retain.weight"?',
        ),
        ("trial.retain.weight", {"uniform": [1, 2]}, 'Did you mean "retain.weight"?'),
        ("forget", {"choice": ["npo"]}, "space.forget: no such trial key"),
        ("epochs", {"uniform": [1, 5]}, "Allowed: a whole number. Use int or log_int."),
        ("epochs", {"choice": ["1", "2"]}, 'has the wrong type (given: "1"). Allowed: values such as 1.'),
        (
            "token_belief.weight",
            {"uniform": [0.5, 1.5]},
            "is out of range (given: 1.5). Allowed: less than or equal to 1.",
        ),
        (
            "retain.loss",
            {"choice": ["nll", "kll"]},
            'is none of the choices (given: "kll"). Did you mean "kl"? Allowed: nll, kl, activations, none.',
        ),
        (
            "engine.inference",
            {"choice": ["gathered"]},
            "cannot be searched: it belongs to a lane, not to a trial. Set trial.engine.inference",
        ),
        (
            "rungs",
            {"int": [1, 2], "when": {"forget.metod": "npo"}},
            'a key that does not exist. Did you mean "forget.method"?',
        ),
        (
            "rungs",
            {"int": [1, 2], "when": {"forget.method": "nop"}},
            'is none of the choices (given: "nop"). Did you mean "npo"?',
        ),
        (
            "rungs",
            {"int": [1, 2], "when": {"forget.method": "ga"}},
            'is never searched: forget.method is one of "npo", "wga"',
        ),
        (
            "rungs",
            {"int": [1, 2], "when": {"beliefs": "token"}},
            'beliefs is not in the space, and trial.beliefs is "none"',
        ),
        ("rungs", {"int": [1, 2], "when": {"rungs": 1}}, "the condition refers to the key itself"),
        (
            "forget.method",
            {"choice": ["npo"], "when": {"forget.npo.beta": 0.5}},
            "the conditions of these keys form a cycle: forget.method, forget.npo.beta",
        ),
    ],
)
def test_bad_space_is_refused_with_its_remedy(message, key, domain, remedy):
    assert remedy in message(space={**SMALL["space"], key: domain})


def test_condition_may_name_values_that_are_not_searched_as_long_as_one_is(write):
    space = {
        "beliefs": {"choice": ["none", "token"]},
        "token_belief.top_k": {"int": [1, 5], "when": {"beliefs": ["token", "token+sequence"]}},
    }
    assert len(load_sweep(write({**SMALL, "space": space})).space) == 2


@pytest.mark.parametrize(
    ("entry", "remedy"),
    [
        (
            {"retain.wieght": 1.0},
            (
                "search.enqueue[0].retain.wieght: is not in the space (given: 1.0). Did you mean"
                ' "retain.weight"?'
            ),
        ),
        (
            {"retain.weight": 9.0},
            "is outside its domain (given: 9.0). Allowed: from 0.5 to 5, on a log scale. Correct the entry",
        ),
        ({"forget.method": "ga"}, 'Allowed: one of "npo", "wga".'),
    ],
)
def test_bad_enqueued_entry_is_refused_with_its_remedy(message, entry, remedy):
    assert remedy in message(search={"enqueue": [entry]})


def objectives_message(message, data=None, model=None, **objectives):
    blocks = {"data": data or SMALL["data"], "model": model or SMALL["model"]}
    return message(
        objectives={
            name: {"direction": direction, "reference": reference}
            for name, (direction, reference) in objectives.items()
        },
        **blocks,
    )


def test_objective_that_does_not_exist_is_refused_with_the_nearest_one(message):
    text = objectives_message(message, forget_true_mas=("minimize", 1.0), utility=("maximize", 0.0))
    assert 'objectives.forget_true_mas: no such metric. Did you mean "forget_true_mass"?' in text


def test_objective_of_another_benchmark_is_refused(message):
    text = objectives_message(message, mem=("maximize", 0.0), utility=("maximize", 0.0))
    assert (
        "cannot give this metric: it belongs to local_files, muse, tofu and wmdp, and data.benchmark is"
        " closed_world" in text
    )


def test_objective_without_its_retrained_model_is_refused(message, tofu):
    text = objectives_message(
        message,
        {"benchmark": "tofu", "path": str(tofu)},
        {"target": "hub/model"},
        forget_quality=("maximize", 0.0),
        model_utility=("maximize", 0.0),
    )
    assert "a retrained model: give model.retrained or model.base" in text


def test_objective_without_its_files_is_refused(message, tofu):
    (tofu / "retain_perturbed.json").unlink()
    text = objectives_message(
        message,
        {"benchmark": "tofu", "path": str(tofu)},
        forget_truth_ratio=("maximize", 0.0),
        model_utility=("maximize", 0.0),
    )
    assert "it needs wrong answers to compare with" in text


def test_objective_in_the_wrong_direction_is_refused(message):
    text = objectives_message(message, forget_true_mass=("maximize", 0.0), utility=("maximize", 0.0))
    assert (
        'objectives.forget_true_mass.direction: lower is better (given: "maximize"). Allowed: minimize.'
        in text
    )


def test_reference_that_nothing_can_beat_is_refused(message):
    text = objectives_message(message, forget_true_mass=("minimize", 0.0), utility=("maximize", 0.0))
    assert (
        "objectives.forget_true_mass.reference: no trial can be better" in text
        and "The worst value is 1." in text
    )


def test_a_single_objective_makes_no_front(message):
    assert "a front needs at least two objectives" in objectives_message(message, utility=("maximize", 0.0))


def test_missing_tofu_folder_and_wrong_folder_are_refused(message, tmp_path):
    data = {"benchmark": "tofu", "path": str(tmp_path / "nowhere")}
    assert "data.path: no such folder" in message(data=data)
    assert "the folder has no full.json" in message(data={**data, "path": str(tmp_path)})


def test_model_folder_without_weights_is_refused(message, tmp_path):
    folder = tmp_path / "model"
    assert "model.target: no such folder" in message(model={"target": str(folder)})
    folder.mkdir()
    assert "has no config.json" in message(model={"target": str(folder)})
    (folder / "config.json").write_text(json.dumps({}))
    assert "has no weights (*.safetensors)" in message(model={"target": str(folder)})
