from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, MistralConfig, Qwen2Config

from trainables.generation.continuation_tree import batch_of, can_run_trees, summed, tree_of

GROUP = ((5, 6, 7), (5, 6, 8), (5, 9), (4,), (5, 6, 7))


def test_tree_runs_each_shared_beginning_once_and_no_last_token():
    tree = tree_of(GROUP)
    assert tree.ids_K.tolist() == [5, 6] and tree.depth_K.tolist() == [0, 1]
    assert tree.seen_KK.tolist() == [[True, False], [True, True]]
    steps = list(zip(tree.parent_E.tolist(), tree.token_E.tolist(), strict=True))
    assert [[steps[number] for number in path] for path in tree.paths] == [
        [(-1, 5), (0, 6), (1, 7)],
        [(-1, 5), (0, 6), (1, 8)],
        [(-1, 5), (0, 9)],
        [(-1, 4)],
        [(-1, 5), (0, 6), (1, 7)],
    ]
    assert len(steps) == 6, "a continuation that comes twice is scored once"


def test_batch_shows_each_token_its_own_branch_and_prompt_alone():
    trees = [tree_of(GROUP), tree_of(((9, 9, 9),))]
    batch = batch_of([(1, 2), (3,)], trees, torch.device("cpu"))
    assert batch.ids_BT.tolist() == [[1, 2, 5, 6], [3, 9, 9, 0]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 3], [0, 1, 2, 0]]
    assert batch.seen_B1TT[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch.seen_B1TT[1, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]]
    owners, places = (rows.tolist() for rows in batch.rows)
    assert owners == [0] * 6 + [1] * 3 and places[6:] == [0, 1, 2]


def test_branches_do_not_see_each_other():
    tree = tree_of(((1, 2, 3), (4, 5, 6)))
    by_token = dict(zip(tree.ids_K.tolist(), tree.seen_KK, strict=True))
    shown = {token: sorted(tree.ids_K[row].tolist()) for token, row in by_token.items()}
    assert shown == {1: [1], 2: [1, 2], 4: [4], 5: [4, 5]}


def test_sums_go_along_paths():
    trees = [tree_of(GROUP), tree_of(((9, 9, 9),))]
    batch = batch_of([(1, 2), (3,)], trees, torch.device("cpu"))
    values = torch.arange(9, dtype=torch.float32)
    first, second = summed(values, batch, trees)
    assert first == [float(np.sum([values[step] for step in path])) for path in trees[0].paths]
    assert second == [6 + 7 + 8]


@pytest.mark.parametrize(
    ("config", "can"),
    [
        (LlamaConfig(attn_implementation="sdpa"), True),
        (LlamaConfig(attn_implementation="eager"), False),
        (MistralConfig(attn_implementation="sdpa", sliding_window=None), True),
        (MistralConfig(attn_implementation="sdpa", sliding_window=4096), False),
        (Qwen2Config(attn_implementation="sdpa"), True),
    ],
)
def test_only_models_that_see_what_a_mask_shows_run_trees(config, can):
    assert can_run_trees(config) is can


def test_unknown_family_runs_no_trees():
    text = SimpleNamespace(model_type="mamba", layer_types=None, sliding_window=None)
    assert not can_run_trees(SimpleNamespace(get_text_config=lambda: text, _attn_implementation="sdpa"))
