import pytest

from search_spaces.settings.trial_settings import TrialSettings
from trainables.training.trial_schedule import TrialSchedule, learning_rate, rung_steps, schedule_of


def rates(steps, warmup, schedule, floor=0.0, peak=2.0):
    return [learning_rate(step, steps, peak, warmup, schedule, floor) for step in range(steps)]


def test_warm_up_rises_evenly_and_its_first_step_moves():
    assert rates(10, 4, "constant")[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])


def test_linear_decay_starts_at_the_peak_and_would_reach_zero_after_the_last_step():
    assert rates(6, 2, "linear")[2:] == pytest.approx([2.0, 1.5, 1.0, 0.5])
    assert learning_rate(6, 6, 2.0, 2, "linear") == 0


def test_cosine_decay_is_half_way_down_in_the_middle():
    assert rates(4, 0, "cosine")[::2] == pytest.approx([2.0, 1.0])
    assert learning_rate(4, 4, 2.0, 0, "cosine") == pytest.approx(0, abs=1e-15)


def test_constant_schedule_stays_at_the_peak():
    assert rates(5, 0, "constant") == [2.0] * 5


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_floor_is_the_share_of_the_peak_left_at_the_end(schedule):
    assert rates(100, 10, schedule, floor=0.1)[10] == pytest.approx(2.0)
    assert learning_rate(100, 100, 2.0, 10, schedule, 0.1) == pytest.approx(0.2)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (3, 3), (3, 9), (8, 2)])
def test_every_step_moves_and_none_exceeds_the_peak(schedule, steps, warmup):
    assert all(0 < rate <= 2.0 for rate in rates(steps, warmup, schedule))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_rates_never_rise_after_warm_up(schedule):
    after = rates(20, 5, schedule)[5:]
    assert after == sorted(after, reverse=True)


def test_rungs_are_evenly_spread_with_the_last_at_the_end():
    assert rung_steps(12, 4) == [3, 6, 9, 12]
    assert rung_steps(10, 4) == [3, 5, 8, 10]
    assert rung_steps(7, 1) == [7]


@pytest.mark.parametrize("steps", range(1, 30))
@pytest.mark.parametrize("rungs", [1, 2, 3, 7])
def test_rungs_are_distinct_steps_and_as_many_as_set_when_they_fit(steps, rungs):
    found = rung_steps(steps, rungs)
    assert found == sorted(set(found))
    assert found[0] >= 1 and found[-1] == steps
    assert len(found) == min(steps, rungs)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"epochs": 4, "rungs": 2},
            TrialSchedule(steps=8, steps_per_epoch=2, refresh_every=2, warmup=2, rungs=[4, 8]),
        ),
        (
            {"steps": 5, "sequence_belief": {"refresh_epochs": 0}},
            TrialSchedule(steps=5, steps_per_epoch=2, refresh_every=5, warmup=2, rungs=[5]),
        ),
        (
            {"epochs": 1, "sequence_belief": {"refresh_epochs": 0.1}},
            TrialSchedule(steps=2, steps_per_epoch=2, refresh_every=1, warmup=2, rungs=[2]),
        ),
    ],
    ids=["epochs", "beliefs once", "beliefs at every step"],
)
def test_course_counts_in_steps_what_the_settings_count_in_epochs(changes, expected):
    trial = TrialSettings.model_validate({"optimizer": {"global_batch": 3}, **changes})
    assert schedule_of(trial, 5) == expected  # two steps an epoch
