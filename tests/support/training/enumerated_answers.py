"""Every answer that a model with a tiny vocabulary can give."""

from itertools import product

VOCABULARY, END = 7, 0


def all_answers(length):
    """Every answer that ends, or is cut at the length."""
    for size in range(1, length + 1):
        for ids in product(range(VOCABULARY), repeat=size):
            if END not in ids[:-1] and (ids[-1] == END or size == length):
                yield ids
