"""Selects the examples of each step as a pure function of (seed, step), whatever the number of workers."""

from collections.abc import Sequence
from functools import lru_cache
from math import ceil
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")

# Streams of the seed: the orders of forget set, retain set and plain training must be independent of each
# other.
FORGET, RETAIN, PLAIN = 0, 1, 2
NO_PARTNER = -1


def steps_per_epoch(num_forget: int, global_batch: int) -> int:
    """Return the optimizer steps of one pass over the forget set."""
    return ceil(num_forget / global_batch)


def global_batch(seed: int, step: int, num_forget: int, num_retain: int, size: int) -> list[tuple[int, int]]:
    """Return pairs of a forget and a retain index for one step.

    Every epoch is a permutation of the forget set, so each example is seen exactly once; its last batch may
    be smaller. Retain partners come from an endless chain of permutations of the retain set, so no retain
    example is used twice before all were used once.

    Args:
        seed: Seed of the trial.
        step: Number of the step, from 0.
        num_forget: Number of forget examples.
        num_retain: Number of retain examples; with 0 the partner is -1.
        size: Pairs per step, over all workers.
    """
    epoch, batch = divmod(step, steps_per_epoch(num_forget, size))
    start = batch * size
    forget = _permutation(seed, FORGET, epoch, num_forget)[start : start + size]
    # The position in the retain chain counts forget examples, not steps: a short last batch skips no retain
    # example.
    first = epoch * num_forget + start
    return [
        (index, _chained(seed, RETAIN, first + offset, num_retain)) for offset, index in enumerate(forget)
    ]


def plain_batch(seed: int, step: int, num_items: int, size: int) -> list[int]:
    """Return the indices of one step of ordinary training: a piece of an endless chain of permutations."""
    return [_chained(seed, PLAIN, step * size + offset, num_items) for offset in range(size)]


def share(items: Sequence[Item], rank: int, world_size: int, micro_batch: int) -> list[list[Item]]:
    """Return the micro-batches of one rank out of a global batch.

    Args:
        items: The global batch, the same on every rank.
        rank: Index of this process.
        world_size: Number of workers.
        micro_batch: Largest number of items per forward pass.

    Returns:
        The SAME number of lists on every rank, some of them possibly empty: a rank that runs fewer forward
        passes than the others leaves them waiting in a collective.
    """
    # Items go to ranks in turn, so that a batch sorted by length is balanced over ranks.
    count = ceil(ceil(len(items) / world_size) / micro_batch)
    mine = list(items[rank::world_size])
    return [mine[start * micro_batch : (start + 1) * micro_batch] for start in range(count)]


def _chained(seed: int, stream: int, position: int, size: int) -> int:
    if size == 0:
        return NO_PARTNER
    # The chain is a permutation per turn, so position p lies in turn p // size.
    turn, offset = divmod(position, size)
    return _permutation(seed, stream, turn, size)[offset]


@lru_cache(maxsize=64)
def _permutation(seed: int, stream: int, turn: int, size: int) -> tuple[int, ...]:
    # numpy refuses negative seeds, which torch accepts.
    generator = np.random.default_rng([seed % 2**63, stream, turn])
    return tuple(int(index) for index in generator.permutation(size))
