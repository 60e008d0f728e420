import pytest

from search_spaces.checks.method_checks import check_methods
from search_spaces.settings.sweep_settings import SweepSettings


def problems(space=None, search=None, **trial):
    blocks = {
        "trial": trial,
        "space": space or {},
        "search": search or {},
        "data": {"benchmark": "closed_world"},
    }
    sweep = SweepSettings.model_validate({"name": "a", "model": {"base": "scratch"}, **blocks})
    return [str(problem) for problem in check_methods(sweep)]


def test_methods_that_lower_targets_take_every_belief():
    space = {
        "forget.method": {"choice": ["npo", "dpo", "flat"]},
        "beliefs": {"choice": ["none", "token", "token+sequence"]},
    }
    assert problems(space) == []


@pytest.mark.parametrize("method", ["ceu", "undial", "pdu"])
def test_token_beliefs_without_a_target_are_refused_with_the_condition_to_add(method):
    space = {"forget.method": {"choice": ["npo", method]}, "beliefs": {"choice": ["none", "token"]}}
    (problem,) = problems(space)
    assert (
        "space.beliefs" in problem
        and f"token with {method}" in problem
        and "when: {forget.method: [ga, graddiff, npo" in problem
    )
    condition = {"forget.method": ["npo"]}
    assert problems(space | {"beliefs": {"choice": ["none", "token"], "when": condition}}) == []
    assert (
        len(problems(space | {"beliefs": {"choice": ["none", "token"], "when": condition}}, beliefs="token"))
        == 1
    )


def test_fixed_settings_are_checked_too():
    assert problems(forget={"method": "ceu"}, beliefs="sequence") == []
    (problem,) = problems(forget={"method": "ceu"}, beliefs="token+sequence")
    assert problem.startswith("trial.beliefs")


def test_condition_on_a_third_key_counts():
    space = {
        "epochs": {"int": [1, 4]},
        "forget.method": {"choice": ["npo", "ceu"], "when": {"epochs": [2]}},
        "beliefs": {"choice": ["none", "token"], "when": {"epochs": [1]}},
    }
    assert problems(space) == []
    assert len(problems(space | {"beliefs": {"choice": ["none", "token"]}})) == 1


def test_enqueued_trials_are_checked_and_may_leave_keys_open():
    space = {
        "forget.method": {"choice": ["npo", "ceu"]},
        "beliefs": {"choice": ["none", "token"], "when": {"forget.method": ["npo"]}},
    }
    assert problems(space, {"enqueue": [{"forget.method": "ceu"}, {"beliefs": "token"}]}) == []
    assert len(problems(space, {"enqueue": [{"forget.method": "ceu", "beliefs": "token"}]})) == 1


def test_dual_variable_needs_a_retain_loss():
    assert "retain.loss" in problems(forget={"method": "pdu"}, retain={"loss": "none"})[0]
    assert problems(forget={"method": "pdu"}, retain={"loss": "kl"}) == []


def test_retain_loss_on_activations_is_for_methods_that_steer_them_and_no_others():
    assert (
        problems(forget={"method": "rmu"}, retain={"loss": "activations"})
        == problems(forget={"method": "rmu"}, retain={"loss": "none"})
        == []
    )
    assert "nll with rmu" in problems(forget={"method": "rmu"})[0]
    assert "activations with npo" in problems(retain={"loss": "activations"})[0]
    space = {
        "forget.method": {"choice": ["npo", "rmu"]},
        "retain.loss": {"choice": ["activations"], "when": {"forget.method": "rmu"}},
    }
    assert problems(space) == problems(space, {"enqueue": [{"forget.method": "rmu"}]}) == []


def test_file_of_preferred_answers_must_exist(tmp_path):
    path = tmp_path / "answers.txt"
    answers = {"method": "dpo", "preferred": {"answers": str(path)}}
    assert "no such file" in problems(forget=answers)[0]
    path.write_text(" \n")
    assert "the file is empty" in problems(forget=answers)[0]
    path.write_text("Who knows.\n")
    assert problems(forget=answers) == []
