import pytest

from orchestrator.pareto.front import Front, FrontMember
from orchestrator.pareto.member_selection import select_members
from orchestrator.pareto.objectives import Objective
from orchestrator.storage.trial_records import TrialRecord, trial_id
from search_spaces.user_errors import UserError

MASS, UTILITY = Objective("mass", "minimize", 1.0), Objective("utility", "maximize", 0.0)
SPEED = Objective("speed", "maximize", 0.0)


def front_of(*values, objectives=(MASS, UTILITY), places=None):
    """Trial and rung (of three) of the n-th member are the n-th of `places`; else each has a trial, at its
    end."""
    members = []
    for (number, rung), point in zip(
        places or [(number, 3) for number in range(len(values))], values, strict=True
    ):
        record = TrialRecord(trial_id(number), number, "finished", {}, {}, [{}] * 3)
        named = dict(zip((objective.name for objective in objectives), point, strict=True))
        members.append(FrontMember(record, rung, named, named))
    return Front(tuple(objectives), tuple(members), 0.0)


FRONT = front_of((0.1, 0.3), (0.2, 0.7), (0.5, 0.8), (0.9, 0.9), places=[(4, 3), (7, 2), (7, 3), (1, 1)])


def names(text, front=FRONT):
    return [member.name for member in select_members(front, text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("front", ["t0004", "t0007@2", "t0007", "t0001@1"]),
        ("knee", ["t0007@2"]),
        ("t0004", ["t0004"]),
        ("t0007", ["t0007@2", "t0007"]),
        ("t0007@2", ["t0007@2"]),
        (" t0007@3 ", ["t0007"]),
        ("utility>=0.5", ["t0007@2"]),
        ("utility > 0.7", ["t0007"]),
        ("mass<=0.5", ["t0007"]),
        ("mass < 0.5", ["t0007@2"]),
        ("mass>0.5", ["t0001@1"]),
        ("utility>=5e-1, utility<0.8", ["t0007@2"]),
        ("utility>=0.5,mass<=0.6", ["t0007@2", "t0007"]),
    ],
)
def test_pick_finds_members(text, found):
    assert names(text) == found


def test_condition_leaves_the_trade_offs_between_two_other_objectives():
    front = front_of(
        (0.1, 0.6, 1.0), (0.2, 0.9, 1.0), (0.3, 0.6, 2.0), (0.0, 0.1, 3.0), objectives=(MASS, UTILITY, SPEED)
    )
    assert names("utility>0.5", front) == ["t0000", "t0002"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kneee", 'Did you mean "knee"'),
        ("t0007@1", "On the front: t0004, t0007@2, t0007, t0001@1"),
        ("utility", 'Did you mean "utility"'),
        ("utilty>=0.5", 'Did you mean "utility".*Allowed: mass, utility'),
        ("utility>=half", "not a number.*Allowed: a number after utility>="),
        ("utility=0.5", "not a condition.*Allowed: front, knee"),
        ("utility>=0.5,", "not a condition"),
        (
            "utility>=0.95",
            r"no member.*given: .utility>=0.95.*The nearest members are: utility 0.9 \(t0001@1\)",
        ),
        ("utility>=0.8,mass<0.2", r"The nearest members are: utility 0.9 \(t0001@1\), mass 0.1 \(t0004\)"),
    ],
)
def test_pick_says_what_would_have_been_right(text, message):
    with pytest.raises(UserError, match=message):
        names(text)


def test_pick_from_an_empty_front_says_so():
    with pytest.raises(UserError, match="no trial is on the front yet"):
        names("front", front_of())


@pytest.mark.parametrize(
    "values",
    [
        [(0.5, 0.5)],
        [(0.1, 0.2), (0.8, 0.9)],
        # Bulges away from the ideal: every inner member is worse than the straight line between the ends.
        [(0.0, 0.0), (0.9, 0.1), (1.0, 1.0)],
    ],
)
def test_knee_of_a_front_without_one_is_the_best_in_the_first_objective(values):
    assert names("knee", front_of(*values)) == ["t0000"]


def test_knee_does_not_depend_on_the_units():
    assert names("knee", front_of((10, 3e-5), (20, 7e-5), (50, 8e-5), (90, 9e-5))) == ["t0001"]


def test_knee_of_three_objectives_is_nearest_to_the_ideal_in_sum():
    front = front_of(
        (0.0, 0.0, 0.0), (1.0, 1.0, 0.0), (1.0, 0.0, 1.0), (0.3, 0.8, 0.8), objectives=(MASS, UTILITY, SPEED)
    )
    assert names("knee", front) == ["t0003"]


def test_knee_is_found_on_the_scale_on_which_the_objectives_are_compared():
    points = [(1e-4, 0.0), (2e-4, 0.6), (1e-2, 0.9), (1.0, 1.0)]
    logarithmic = Objective("mass", "minimize", 1.0, "log", (1e-6, 1.0))
    assert names("knee", front_of(*points)) == ["t0002"]
    assert names("knee", front_of(*points, objectives=(logarithmic, UTILITY))) == ["t0001"]
