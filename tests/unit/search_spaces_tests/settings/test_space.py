import itertools

import pytest
from pydantic import ValidationError

from search_spaces.settings.space import (
    Domain,
    active,
    apply,
    dead_condition,
    ordered,
    sample,
    trial_keys,
    trial_value,
)
from search_spaces.settings.trial_settings import TrialSettings
from search_spaces.user_errors import UserError

TRIAL = TrialSettings()


def space_of(**domains):
    return {key.replace("__", "."): Domain.model_validate(domain) for key, domain in domains.items()}


NESTED = space_of(
    token_belief__top_k={"log_int": [1, 8], "when": {"token_belief.weight": [0.1, 0.2]}},
    token_belief__weight={"choice": [0.1, 0.2, 0.3], "when": {"beliefs": ["token", "token+sequence"]}},
    beliefs={"choice": ["none", "token"]},
)


def test_domain_reads_every_kind():
    assert Domain.model_validate({"choice": ["npo", "wga"]}).choices == ("npo", "wga")
    for kind, bounds in {
        "uniform": (0.5, 2.0),
        "log_uniform": (0.5, 2.0),
        "int": (1, 9),
        "log_int": (1, 9),
    }.items():
        domain = Domain.model_validate({kind: list(bounds)})
        assert (domain.kind, domain.low, domain.high) == (kind, *bounds)
        assert isinstance(domain.low, int if "int" in kind else float)


def test_domain_makes_a_tuple_of_a_single_condition_value():
    assert Domain.model_validate({"int": [1, 2], "when": {"beliefs": "token"}}).when == {
        "beliefs": ("token",)
    }


@pytest.mark.parametrize(
    "domain",
    [
        {"choice": [True, None, 1, "a"]},
        {"log_int": [1, 5], "when": {"beliefs": ["token"]}},
        {"uniform": [0.0, 1.0]},
    ],
)
def test_domain_is_written_as_it_is_read(domain):
    read = Domain.model_validate(domain)
    assert read.model_dump() == domain
    assert Domain.model_validate_json(read.model_dump_json()) == read


@pytest.mark.parametrize(
    ("domain", "remedy"),
    [
        ({"log_unifrom": [1, 2]}, 'Did you mean "log_uniform"'),
        ({"uniform": [0, 1], "int": [0, 1]}, "exactly one of choice, uniform"),
        ({"when": {"beliefs": "token"}}, "exactly one of choice, uniform"),
        ({"uniform": [2, 1]}, r"low \(2\) must be below high \(1\)"),
        ({"uniform": [1, 1]}, "a fixed value belongs under `trial:`"),
        ({"uniform": [1]}, r"two bounds, \[low, high\]"),
        ({"uniform": [0, float("inf")]}, "two finite numbers"),
        ({"uniform": [0, "much"]}, '"much" is none'),
        ({"log_uniform": [0, 1]}, "bounds above 0"),
        ({"int": [0.5, 2]}, "use uniform for reals"),
        ({"choice": []}, "a list of values"),
        ({"choice": "npo"}, "a list of values"),
        ({"choice": ["npo", "npo"]}, '"npo" twice'),
        ({"choice": [["npo"]]}, "plain values only"),
        ({"choice": ["npo"], "when": "token"}, "`when` maps keys"),
        ({"choice": ["npo"], "when": {"beliefs": []}}, "a plain value, or a list"),
        ([1, 2], "a domain is a mapping"),
    ],
)
def test_domain_refuses_and_says_what_is_right(domain, remedy):
    with pytest.raises(ValidationError, match=remedy):
        Domain.model_validate(domain)


def test_domain_contains_its_bounds_and_nothing_beyond():
    whole = Domain.model_validate({"int": [1, 4]})
    assert [value for value in (0, 1, 2.0, 2.5, 4, 5, True, "2", None) if whole.contains(value)] == [
        1,
        2.0,
        4,
    ]
    assert Domain.model_validate({"uniform": [0, 1]}).contains(0.5)


def test_domain_choice_distinguishes_true_from_one():
    assert not Domain.model_validate({"choice": [True, False]}).contains(1)


def test_domain_turns_a_value_into_the_type_in_which_it_draws():
    drawn = [
        Domain.model_validate(domain).as_drawn(2)
        for domain in ({"uniform": [1, 4]}, {"int": [1, 4]}, {"choice": ["a", 2]})
    ]
    assert [(value, type(value)) for value in drawn] == [(2.0, float), (2, int), (2, int)]


def test_trial_keys_are_dotted_leaves():
    keys = trial_keys()
    assert {"epochs", "beliefs", "forget.npo.beta", "sequence_belief.top_p"} <= keys.keys()
    assert "forget" not in keys and "forget.npo" not in keys


def test_trial_value_reads_a_dotted_key_and_suggests_for_a_wrong_one():
    assert trial_value(TRIAL, "forget.npo.beta") == 0.1
    with pytest.raises(UserError, match=r'Did you mean "forget\.npo\.beta"'):
        trial_value(TRIAL, "forget.npo.betta")


def test_active_reads_drawn_values_before_defaults():
    space = space_of(
        forget__npo__beta={"uniform": [0.1, 1], "when": {"forget.method": "npo"}},
        forget__method={"choice": ["npo", "wga"]},
    )
    assert active("forget.npo.beta", space, {"forget.method": "npo"}, TRIAL)
    assert not active("forget.npo.beta", space, {"forget.method": "wga"}, TRIAL)


def test_active_falls_back_on_the_trial_when_the_condition_is_not_searched():
    space = space_of(forget__npo__beta={"uniform": [0.1, 1], "when": {"forget.method": "npo"}})
    assert active("forget.npo.beta", space, {}, TRIAL)
    assert not active("forget.npo.beta", space, {}, apply(TRIAL, {"forget.method": "wga"}))


def test_active_needs_all_conditions():
    space = space_of(rungs={"int": [1, 3], "when": {"forget.method": "npo", "beliefs": "token"}})
    assert not active("rungs", space, {}, TRIAL)


def test_active_counts_a_switched_off_key_with_the_trial_value():
    # weight is off under beliefs none, and its default 0.2 is what the trial then has.
    assert active("token_belief.top_k", NESTED, {"beliefs": "none"}, TRIAL)


def test_ordered_puts_conditions_first_and_keeps_the_file_order_otherwise():
    assert ordered(NESTED) == ["beliefs", "token_belief.weight", "token_belief.top_k"]
    assert ordered(space_of(rungs={"int": [1, 2]}, epochs={"int": [1, 2]})) == ["rungs", "epochs"]


def test_ordered_names_the_cycle_and_only_the_cycle():
    space = space_of(
        rungs={"int": [1, 2], "when": {"epochs": 1}},
        epochs={"int": [1, 2], "when": {"steps": 1}},
        steps={"int": [1, 2], "when": {"epochs": 1}},
    )
    with pytest.raises(UserError, match=r"these keys form a cycle: epochs, steps\. Remove one condition"):
        ordered(space)


def test_dead_condition_finds_what_can_never_hold():
    space = space_of(
        beliefs={"choice": ["none", "sequence"]},
        token_belief__top_k={"int": [1, 2], "when": {"beliefs": "token"}},
        sequence_belief__top_k={"int": [1, 2], "when": {"beliefs": ["sequence", "token+sequence"]}},
    )
    assert dead_condition("token_belief.top_k", space, TRIAL) == "beliefs"
    assert dead_condition("sequence_belief.top_k", space, TRIAL) is None


def test_sample_agrees_with_enumeration_of_all_cases():
    # Slow reference: every combination of choices, with the keys written out that each one switches on.
    for beliefs, weight in itertools.product(["none", "token"], [0.1, 0.2, 0.3]):
        drawn = {"beliefs": beliefs, "token_belief.weight": weight, "token_belief.top_k": 3}
        expected = {"beliefs": beliefs}
        if beliefs == "token":
            expected["token_belief.weight"] = weight
        if expected.get("token_belief.weight", 0.2) in (0.1, 0.2):
            expected["token_belief.top_k"] = 3
        assert sample(NESTED, TRIAL, lambda key, domain, drawn=drawn: drawn[key]) == expected


def test_sample_draws_once_per_active_key_with_its_domain():
    suggested = []
    sample(
        NESTED,
        TRIAL,
        lambda key, domain: (
            suggested.append((key, domain)) or domain.choices[0] if domain.kind == "choice" else 1
        ),
    )
    assert suggested == [("beliefs", NESTED["beliefs"])]


def test_sample_returns_keys_in_the_order_of_the_file():
    params = sample(
        NESTED,
        TRIAL,
        lambda key, domain: (
            "token" if key == "beliefs" else domain.choices[0] if domain.choices else domain.low
        ),
    )
    assert list(params) == list(NESTED)


def test_apply_sets_dotted_keys_and_nothing_else():
    changed = apply(TRIAL, {"forget.npo.beta": 0.5, "beliefs": "token"})
    assert (changed.forget.npo.beta, changed.beliefs) == (0.5, "token")
    assert apply(changed, {"forget.npo.beta": 0.1, "beliefs": "none"}) == TRIAL


def test_apply_refuses_an_unknown_key_with_a_suggestion():
    with pytest.raises(UserError, match=r'Did you mean "retain\.weight"'):
        apply(TRIAL, {"retain.wieght": 1.0})


def test_apply_refuses_a_value_out_of_range_and_says_the_range():
    with pytest.raises(
        UserError,
        match=r"token_belief\.top_k: is out of range \(given: 0\)\. Allowed: greater than or equal to 1",
    ):
        apply(TRIAL, {"token_belief.top_k": 0})


def test_domain_text_is_for_people():
    assert Domain.model_validate({"choice": ["npo", True]}).text() == 'one of "npo", true'
    assert Domain.model_validate({"log_int": [1, 256]}).text() == "from 1 to 256, whole, on a log scale"
