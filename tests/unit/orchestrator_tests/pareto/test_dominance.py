import math

import numpy as np
import pytest

from orchestrator.pareto.dominance import NonDominated, dominance_layers, hypervolume, non_dominated


def some_points(seed, *, dimensions, values=6, count=40):
    """Points on a small grid, so that ties and duplicates are common; a few are not finite."""
    draw = np.random.default_rng(seed)
    points = draw.integers(0, values, size=(count, dimensions)).astype(float)
    bad = draw.random(points.shape) < 0.03
    points[bad] = draw.choice([math.nan, math.inf, -math.inf], size=bad.sum())
    return points


def test_non_dominated_agrees_with_pairwise_comparison():
    points = np.random.default_rng(0).integers(0, 6, size=(40, 3)).astype(float)
    expected = [not any(all(q <= p) and any(q < p) for q in points) for p in points]
    assert non_dominated(points).tolist() == expected


def test_non_dominated_keeps_all_duplicates():
    assert non_dominated([[1, 1], [1, 1], [1, 2], [0, 3]]).tolist() == [True, True, False, True]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_points_that_are_not_finite_neither_stay_nor_dominate(bad):
    points = [[bad, 0.0], [0.5, 0.5]]
    assert non_dominated(points).tolist() == [False, True]
    assert hypervolume(points, [1.0, 1.0]) == 0.25


def test_nothing_comes_of_no_points():
    assert non_dominated([]).tolist() == []
    assert non_dominated(np.empty((0, 2))).tolist() == []
    assert hypervolume([], [1.0, 1.0]) == 0.0


def test_layers_are_peeled_off_one_after_another():
    points = np.random.default_rng(1).integers(0, 5, size=(60, 3)).astype(float)
    layers, left, expected = 0, np.arange(len(points)), np.empty(len(points), dtype=int)
    while len(left):
        front = non_dominated(points[left])
        expected[left[front]] = layers
        layers, left = layers + 1, left[~front]
    assert dominance_layers(points).tolist() == expected.tolist()


def test_layers_of_a_chain_count_up_and_equal_points_share_theirs():
    assert dominance_layers([[3, 3], [1, 1], [2, 2], [1, 1]]).tolist() == [2, 0, 1, 0]


def test_hypervolume_of_a_staircase_is_its_area():
    # Three unit steps below (3, 3): 1x3 + 1x2 + 1x1 squares.
    assert hypervolume([[0, 2], [1, 1], [2, 0]], [3.0, 3.0]) == 6.0


def test_hypervolume_of_a_box_is_its_volume():
    assert hypervolume([[0.5, -1.0, 0.0]], [1.0, 1.0, 4.0]) == pytest.approx(0.5 * 2.0 * 4.0)


def test_points_at_or_beyond_the_reference_add_nothing():
    assert hypervolume([[0.5, 0.5], [2.0, -9.0], [1.0, 0.0]], [1.0, 1.0]) == 0.25


def test_duplicates_add_nothing():
    assert hypervolume([[0.5, 0.5], [0.5, 0.5]], [1.0, 1.0]) == 0.25


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_growing_set_holds_what_none_dominates_at_every_moment(seed, dimensions):
    points = some_points(seed, dimensions=dimensions)
    growing: NonDominated[int] = NonDominated([5.0] * dimensions)
    for count, point in enumerate(points, start=1):
        seen = points[:count]
        joins = bool(non_dominated(seen)[-1])
        gain = hypervolume(seen, growing.reference) - hypervolume(seen[:-1], growing.reference)
        assert growing.would_join(point) is joins
        assert growing.gain(point) == pytest.approx(gain if joins else 0.0)
        assert growing.add(point, count - 1) is joins
        assert growing.items == np.flatnonzero(non_dominated(seen)).tolist()
        assert growing.hypervolume == pytest.approx(hypervolume(seen, growing.reference))


def test_growing_set_does_not_depend_on_the_order_of_arrival():
    points = some_points(7, dimensions=2)
    found = []
    for order in (
        range(len(points)),
        reversed(range(len(points))),
        np.random.default_rng(0).permutation(len(points)),
    ):
        growing: NonDominated[int] = NonDominated([5.0, 5.0])
        for index in order:
            growing.add(points[index], int(index))
        found.append(set(growing.items))
    assert found[0] == found[1] == found[2]


def test_growing_set_keeps_equal_points_in_the_order_in_which_they_came():
    growing: NonDominated[str] = NonDominated([1.0, 1.0])
    assert (
        growing.add((0.5, 0.5), "first")
        and growing.would_join((0.5, 0.5))
        and growing.add((0.5, 0.5), "second")
    )
    assert growing.items == ["first", "second"]
    assert growing.gain((0.5, 0.5)) == 0.0
    assert growing.add((0.5, 0.4), "better") and growing.items == ["better"]


def test_growing_set_of_nothing_has_no_volume_and_takes_any_finite_point():
    growing: NonDominated[str] = NonDominated([1.0, 1.0])
    assert (growing.items, growing.hypervolume) == ([], 0.0)
    assert growing.gain((0.5, 0.5)) == 0.25
    # Beyond the reference point: a member without a share of the volume.
    assert growing.gain((2.0, 0.5)) == 0.0 and growing.would_join((2.0, 0.5))
    assert not growing.add((math.nan, 0.0), "bad") and growing.items == []
