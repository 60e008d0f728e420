"""Which ended trials a sampler still looks at: bounds the time of its next proposal in very long sweeps."""

import bisect
from collections.abc import Sequence

from orchestrator.pareto.dominance import NonDominated


class Relevance:
    """The newest trials with a result, and the front. What is relevant depends on the trials alone, not on the order of their ends.

    Args:
        newest: How many newest trials count; all when None.
        reference: (objectives,) of the hypervolume.
    """

    def __init__(self, newest: int | None, reference: Sequence[float]) -> None:
        self._most = newest
        self._newest: list[int] = []
        self._front: NonDominated[int] = NonDominated(reference)

    def add(self, trial: int, point: Sequence[float] | None) -> list[int]:
        """Take a trial that has ended with a result.

        Args:
            trial: A larger number is newer.
            point: Minimises in every coordinate; None for a trial that cannot be on the front.

        Returns:
            Trials that have become irrelevant for good, this one perhaps among them.
        """
        if self._most is None:
            return []
        doubtful = set()
        if point is not None:
            before = set(self._front.items)
            self._front.add(point, trial)
            doubtful = before.difference(self._front.items)
        bisect.insort(self._newest, trial)
        if len(self._newest) > self._most:
            doubtful.add(self._newest.pop(0))
        stay = {*self._front.items, *self._newest} if doubtful else set()
        return sorted(doubtful - stay)
