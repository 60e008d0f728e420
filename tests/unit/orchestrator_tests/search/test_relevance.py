import random

import pytest

from orchestrator.search.sampler_memory import TrialWindow


def slow_reference(points, newest):
    """Numbers of the newest ended trials, and of those that none of all ended trials dominates."""
    front = {
        number
        for number, point in points.items()
        if point is not None
        and not any(
            other is not None and other != point and other[0] <= point[0] and other[1] <= point[1]
            for other in points.values()
        )
    }
    return front | set(sorted(points)[-newest:])


@pytest.mark.parametrize("seed", range(5))
def test_relevant_are_the_newest_and_the_front_whatever_the_order_of_the_ends(seed):
    draw = random.Random(seed)
    window, points, kept = TrialWindow(5, (1.0, 1.0)), {}, set()
    order = sorted(range(60), key=lambda number: number + draw.randint(0, 12))
    for number in order:
        points[number] = (draw.randint(0, 9) / 10, draw.randint(0, 9) / 10) if draw.random() < 0.8 else None
        kept.add(number)
        dropped = window.add(number, points[number])
        assert kept.issuperset(dropped)
        kept.difference_update(dropped)
        assert kept == slow_reference(points, 5)


def test_everything_is_relevant_without_a_bound():
    window = TrialWindow(None, (1.0, 1.0))
    assert [window.add(number, (0.5, 0.5)) for number in range(30)] == [[]] * 30
