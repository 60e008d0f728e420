"""A short run of the chaos script: made-up trials behind the real sweep code. The long one is
`python -m tests.chaos.chaos`."""

import random

from tests.chaos.chaos import problems
from tests.chaos.faults import Scene, anything


def test_sweep_whose_workers_and_drivers_die_and_hang_loses_and_repeats_nothing(tmp_path):
    tally = anything(Scene(tmp_path, cheap=True, dice=random.Random(0), trials=12, lanes=1), injections=3)
    assert tally.injected == 3
    assert problems(tally) == {"lost": [], "repeated": [], "disagreeing": [], "not_ended": [], "untold": []}
