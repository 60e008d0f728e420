"""Which examples form which step: pure functions of (seed, step), so that results do not depend on the number
of workers."""

from collections.abc import Sequence
from functools import lru_cache
from math import ceil
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")

# Streams of the seed: forget order, retain order and plain training order must not repeat each other.
FORGET, RETAIN, PLAIN = 0, 1, 2
NO_PARTNER = -1


def steps_per_epoch(num_forget: int, global_batch: int) -> int:
    """Optimizer steps that one pass over the forget set takes."""
    return ceil(num_forget / global_batch)


def global_batch(seed: int, step: int, num_forget: int, num_retain: int, size: int) -> list[tuple[int, int]]:
    """Pairs of a forget and a retain index for one step.

    Every epoch is a permutation of the forget set, so each example is seen exactly once; its last batch may
    be smaller. Retain partners come from an endless chain of permutations of the retain set, so all of it is
    used before any of it again.

    Args:
        seed: Seed of the trial.
        step: From 0.
        num_forget: Forget examples.
        num_retain: Retain examples; with 0 the partner is -1.
        size: Pairs per step, over all workers.
    """
    epoch, batch = divmod(step, steps_per_epoch(num_forget, size))
    start = batch * size
    forget = _permutation(seed, FORGET, epoch, num_forget)[start : start + size]
    first = epoch * num_forget + start
    return [
        (index, _chained(seed, RETAIN, first + offset, num_retain)) for offset, index in enumerate(forget)
    ]


def plain_batch(seed: int, step: int, num_items: int, size: int) -> list[int]:
    """Indices of one step of ordinary training: consecutive pieces of an endless chain of permutations."""
    return [_chained(seed, PLAIN, step * size + offset, num_items) for offset in range(size)]


def share(items: Sequence[Item], rank: int, world_size: int, micro_batch: int) -> list[list[Item]]:
    """Micro-batches of one rank out of a global batch.

    Args:
        items: The global batch, the same on every rank.
        rank: This process.
        world_size: Workers.
        micro_batch: Most items per forward pass.

    Returns:
        The SAME number of lists on every rank, some of them perhaps empty: a rank that runs fewer forward
        passes than the others leaves them waiting in a collective.
    """
    count = ceil(ceil(len(items) / world_size) / micro_batch)
    mine = list(items[rank::world_size])
    return [mine[start * micro_batch : (start + 1) * micro_batch] for start in range(count)]


def _chained(seed: int, stream: int, position: int, size: int) -> int:
    if size == 0:
        return NO_PARTNER
    turn, offset = divmod(position, size)
    return _permutation(seed, stream, turn, size)[offset]


@lru_cache(maxsize=64)
def _permutation(seed: int, stream: int, turn: int, size: int) -> tuple[int, ...]:
    # A negative seed is as good as any, but numpy's seeding takes none.
    generator = np.random.default_rng([seed % 2**63, stream, turn])
    return tuple(int(index) for index in generator.permutation(size))
