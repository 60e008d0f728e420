import pytest

from search_spaces.loading.changed_settings import extended
from search_spaces.user_errors import UserError
from tests.support.sweeps.sweep_on_disk import small_sweep


def test_extended_sweep_has_more_trials_and_nothing_else_changed():
    longer = extended(small_sweep(), {"search.trials": "+20"})
    assert longer.search.trials == 26
    assert longer.model_copy(update={"search": small_sweep().search}) == small_sweep()


def test_new_total_takes_the_place_of_the_old_one():
    sweep = small_sweep(budget={"worker_hours": 1.5})
    assert extended(sweep, {"search.trials": "64", "budget.worker_hours": "+0.5"}).search.trials == 64
    assert extended(sweep, {"budget.worker_hours": "+0.5"}).budget.worker_hours == 2.0
    assert extended(small_sweep(), {"budget.wall_time_s": "60"}).budget.wall_time_s == 60


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "nothing to extend"),
        ({"search.trials": "some"}, r"search.trials: not a number \(given: \"some\"\)"),
        ({"search.trials": "+1.5"}, "search.trials: not a number"),
        ({"search.trials": "3"}, "a limit can only be raised .* Allowed: 6 or more"),
        ({"budget.worker_hours": "+1"}, "no such limit, so there is nothing to add to"),
        ({"budget.wall_time_s": "-5"}, "budget.wall_time_s: .*greater than 0|budget.wall_time_s"),
    ],
)
def test_change_that_makes_no_sense_is_refused_with_its_key(changes, message):
    with pytest.raises(UserError, match=message):
        extended(small_sweep(), changes)
