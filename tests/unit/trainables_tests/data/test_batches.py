from collections import Counter

import pytest

from trainables.data.batches import global_batch, plain_batch, share, steps_per_epoch


def epoch_pairs(seed, epoch, num_forget, num_retain, size):
    steps = steps_per_epoch(num_forget, size)
    return [
        pair
        for step in range(epoch * steps, (epoch + 1) * steps)
        for pair in global_batch(seed, step, num_forget, num_retain, size)
    ]


@pytest.mark.parametrize(("num_forget", "size", "steps"), [(12, 4, 3), (13, 4, 4), (3, 32, 1), (1, 1, 1)])
def test_steps_per_epoch_rounds_up(num_forget, size, steps):
    assert steps_per_epoch(num_forget, size) == steps


@pytest.mark.parametrize("size", [1, 4, 13, 32])
def test_every_epoch_holds_each_forget_example_once(size):
    for epoch in range(3):
        assert sorted(forget for forget, _ in epoch_pairs(0, epoch, 13, 50, size)) == list(range(13))


def test_last_batch_of_an_epoch_is_smaller():
    assert [len(global_batch(0, step, 10, 10, 4)) for step in range(6)] == [4, 4, 2, 4, 4, 2]


def test_retain_partners_use_the_whole_set_before_repeating_it():
    partners = [retain for epoch in range(5) for _, retain in epoch_pairs(0, epoch, 12, 20, 5)]
    assert set(Counter(partners).values()) == {3}
    assert sorted(partners[:20]) == sorted(partners[20:40]) == list(range(20))
    assert partners[:20] != partners[20:40]


def test_pairing_does_not_depend_on_the_batch_size():
    assert epoch_pairs(3, 0, 12, 7, 4) == epoch_pairs(3, 0, 12, 7, 12)


def test_partner_is_minus_one_when_nothing_is_retained():
    assert {retain for _, retain in global_batch(0, 0, 5, 0, 5)} == {-1}


def test_batches_depend_on_seed_and_epoch_only():
    first = global_batch(0, 0, 40, 40, 40)
    assert first == global_batch(0, 0, 40, 40, 40)
    assert first != global_batch(1, 0, 40, 40, 40)
    assert first != global_batch(0, 1, 40, 40, 40)
    assert len(global_batch(-1, 0, 40, 40, 40)) == 40


def test_forget_and_retain_orders_differ_when_the_sets_are_of_one_size():
    forget, retain = zip(*global_batch(0, 0, 40, 40, 40), strict=True)
    assert forget != retain


def test_plain_batches_walk_through_all_items_before_repeating():
    indices = [index for step in range(10) for index in plain_batch(7, step, 20, 6)]
    assert [sorted(indices[start : start + 20]) for start in (0, 20, 40)] == [list(range(20))] * 3


def test_plain_batch_is_full_when_the_data_is_smaller_than_it():
    assert len(plain_batch(0, 0, 3, 8)) == 8


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("micro_batch", [1, 2, 5])
@pytest.mark.parametrize("items", [0, 1, 6, 13])
def test_share_gives_every_item_once_and_every_rank_as_many_batches(items, micro_batch, world_size):
    shares = [share(list(range(items)), rank, world_size, micro_batch) for rank in range(world_size)]
    assert sorted(item for batches in shares for batch in batches for item in batch) == list(range(items))
    assert len({len(batches) for batches in shares}) == 1
    assert all(len(batch) <= micro_batch for batches in shares for batch in batches)


def test_share_leaves_a_rank_empty_batches_when_items_run_out():
    assert share([5], 1, 2, 4) == [[]]
