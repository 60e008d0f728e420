import pytest
import torch

from trainables.data.collate import collate
from trainables.data.encoding import Encoded

SHORT = Encoded("a", (5, 6, 7, 9), 2)
LONG = Encoded("b", (5, 6, 8, 8, 8, 9), 5)


def test_collate_feeds_all_but_the_last_token():
    batch = collate([SHORT, LONG], pad_id=0)
    assert batch.input_ids_BL.tolist() == [[5, 6, 7, 0, 0], [5, 6, 8, 8, 8]]
    assert batch.attention_mask_BL.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def test_collate_points_each_answer_token_at_the_position_before_it():
    batch = collate([SHORT, LONG], pad_id=0)
    length = batch.input_ids_BL.shape[1]
    assert batch.rows_N.tolist() == [1, 2, length + 4]
    assert batch.targets_N.tolist() == [7, 9, 9]
    assert batch.sequence_N.tolist() == [0, 0, 1]
    assert batch.lengths_B.tolist() == [2, 1]
    assert batch.num_sequences == 2


def test_collate_masks_by_length_when_padding_is_the_end_token():
    batch = collate([SHORT, Encoded("c", (5, 9, 9, 9, 9, 9), 1)], pad_id=9)
    assert batch.attention_mask_BL.sum(1).tolist() == [3, 5]


def test_collate_gives_one_dummy_and_no_rows_when_empty():
    batch = collate([], pad_id=3)
    assert batch.input_ids_BL.tolist() == [[3]]
    assert batch.attention_mask_BL.tolist() == [[1]]
    assert batch.rows_N.numel() == batch.targets_N.numel() == batch.sequence_N.numel() == 0
    assert batch.rows_N.dtype == torch.long
    assert batch.num_sequences == 0


@pytest.mark.parametrize("items", [[], [SHORT], [SHORT, LONG]])
def test_collate_pads_to_a_multiple(items):
    batch = collate(items, pad_id=0, pad_to_multiple=8)
    assert batch.input_ids_BL.shape[1] == 8
    flat = batch.input_ids_BL.flatten()
    assert all(
        flat[row] == items[index].ids[items[index].prompt_length - 1]
        for row, index in zip(batch.rows_N[:1], batch.sequence_N[:1], strict=True)
    )


def test_batch_moves_whole_to_a_device():
    moved = collate([SHORT], pad_id=0).to("meta")
    assert {moved.input_ids_BL.device.type, moved.rows_N.device.type, moved.lengths_B.device.type} == {"meta"}
    assert moved.num_sequences == 1
