import pytest

from orchestrator.pareto.member_selection import choose_rung
from orchestrator.pareto.objectives import criteria_of
from search_spaces.user_errors import UserError
from tests.support.sweeps.sweep_on_disk import store


@pytest.fixture
def choose(tmp_path):
    _, sweep, study = store(tmp_path)
    records = study.records()
    return lambda text: choose_rung(records, criteria_of(sweep), text, "--trial")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("t0001", "t0001"),
        ("t0002@1", "t0002"),
        (" t0000 ", "t0000"),
        ("knee", "t0001"),
        ("utility>=0.8", "t0000"),
    ],
)
def test_rung_is_found_on_the_front_or_off_it(choose, text, name):
    assert (choose(text).name, choose(text).rung) == (name, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("t0009", 'there is no such trial.*given: "t0009".*Did you mean "t000.*t0000 to t0005'),
        ("t0001@2", "no such rung.*Allowed: t0001@1 to t0001@1"),
        ("t0001@0", "no such rung"),
        ("t0003", "the trial failed: loss is NaN"),
        ("t0005", "still running"),
        ("front", "means 3 members of the front.*t0004, t0001, t0000, or knee"),
        ("best", "no member of the front has this name"),
    ],
)
def test_what_is_no_single_rung_with_a_result_is_refused(choose, text, words):
    with pytest.raises(UserError, match=f"(?s)^--trial: .*{words}"):
        choose(text)
