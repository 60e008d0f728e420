import pytest

from orchestrator.pareto.objectives import objectives_of
from orchestrator.report.figure_data import end_points
from orchestrator.report.parallel_axes import parallel_axes
from tests.support.sweeps.finished_sweep import records, sweep, view


@pytest.fixture
def axes():
    settings = view(records=records(failed=(), stopped=()))
    objectives = objectives_of(settings.sweep)
    points = end_points(settings)
    return {axis.title: axis for axis in parallel_axes(settings.sweep, objectives, points)}


def test_axes_are_the_searched_keys_then_the_objectives(axes):
    assert list(axes) == [*sweep().space, "forget_true_mass (lower is better)", "utility (higher is better)"]


def test_axis_of_a_choice_spreads_its_values_in_the_order_of_the_file(axes):
    assert axes["forget.method"].ticks == ((0.0, "graddiff"), (1.0, "npo"), (2.0, "wga"))
    assert axes["forget.method"].positions[:4] == (0.0, 1.0, 2.0, 0.0)


def test_axis_of_a_log_domain_is_logarithmic(axes):
    axis = axes["optimizer.learning_rate"]
    assert (axis.low, axis.high) == pytest.approx((-4.0, -2.69897))
    assert [axis.ticks[0][1], axis.ticks[-1][1]] == ["0.0001", "0.002"]


def test_axis_of_a_conditional_key_puts_trials_without_it_below_the_values(axes):
    axis = axes["token_belief.temperature"]
    assert axis.ticks[0] == (axis.low, "off")
    assert axis.low < 0.5
    # The first three trials are plain, the next three have BS-T.
    assert axis.positions[:3] == (axis.low,) * 3
    assert all(0.5 <= position <= 2.5 for position in axis.positions[3:6])


def test_axis_shares_lie_between_nought_and_one(axes):
    assert all(0 <= axis.share(position) <= 1 for axis in axes.values() for position in axis.positions)


def test_axis_of_one_value_only_has_no_range():
    settings = view(records=records(1, failed=()))
    objectives = objectives_of(settings.sweep)
    points = end_points(settings)
    axis = parallel_axes(settings.sweep, objectives, points)[-1]
    assert axis.share(axis.positions[0]) == 0.5
    assert len(axis.ticks) == 1
