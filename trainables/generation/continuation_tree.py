"""Scores many continuations of a prompt as one tree of tokens, so that shared beginnings run once.

Shape suffixes: B prompts, T tokens of a tree with its prompt, K tokens of a tree without it, E scored steps
from a token to the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig

Ids = tuple[int, ...]

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Values of `model_type` in which every layer attends exactly as a custom mask says."""


def can_run_trees(config: PretrainedConfig) -> bool:
    """Whether a model attends as an arbitrary mask says, which trees need."""
    text = config.get_text_config()
    full = set(getattr(text, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    plain = full and getattr(text, "sliding_window", None) is None
    # sdpa takes a boolean mask of any shape. The eager form would add it to the scores, and the flash kernel
    # takes none of this shape.
    return text.model_type in FAMILIES and plain and config._attn_implementation == "sdpa"


@dataclass(frozen=True, eq=False)
class Tree:
    """Continuations that share beginnings. Leaves are scored, but never fed to the model."""

    ids_K: np.ndarray
    """Tokens that are fed, each behind its parent."""
    depth_K: np.ndarray
    """Number of tokens between the prompt and each fed token."""
    seen_KK: np.ndarray
    """Attention mask among fed tokens: each sees its ancestors and itself."""
    parent_E: np.ndarray
    """Index of the fed token whose hidden state predicts each scored step; -1: the prompt's last token."""
    token_E: np.ndarray
    """Token that each scored step predicts."""
    paths: tuple[Ids, ...]
    """Indices of the steps of each continuation."""


@lru_cache(maxsize=256)
def tree_of(continuations: tuple[Ids, ...]) -> Tree:
    """Build the tree of continuations, none of them empty."""
    # Cached, since all questions about one attribute have the same continuations.
    steps: dict[tuple[int, int], int] = {}  # (step that led here, next token) -> number of the step
    paths = []
    for ids in continuations:
        here, path = -1, []
        for token in ids:
            here = steps.setdefault((here, token), len(steps))
            path.append(here)
        paths.append(tuple(path))
    # Only inner nodes are fed. Their order is that of insertion, in which parents precede their children.
    followed = sorted({origin for origin, _ in steps} - {-1})
    place = {step: index for index, step in enumerate(followed)} | {-1: -1}
    origins, tokens = (np.array(column, dtype=np.int64) for column in zip(*steps, strict=True))
    seen_KK = np.eye(len(followed), dtype=bool)
    depth_K = np.zeros(len(followed), dtype=np.int64)
    for index, step in enumerate(followed):
        parent = place[int(origins[step])]
        if parent >= 0:
            seen_KK[index] |= seen_KK[parent]
            depth_K[index] = depth_K[parent] + 1
    parent_E = np.array([place[int(origin)] for origin in origins], dtype=np.int64)
    return Tree(tokens[followed], depth_K, seen_KK, parent_E, tokens, tuple(paths))


@dataclass(frozen=True)
class TreeBatch:
    """Prompts with their trees, padded on the right."""

    ids_BT: Tensor
    """Token ids of prompt and tree."""
    positions_BT: Tensor
    """Position ids: siblings in a tree share one."""
    seen_B1TT: Tensor
    """Boolean attention mask."""
    rows: tuple[Tensor, Tensor]
    """Prompt and position of the token whose hidden state predicts each scored step, both `[E]`."""
    targets_E: Tensor
    """Token that each scored step predicts."""
    starts: tuple[int, ...]
    """Index of each prompt's first step."""


def batch_of(prompts: Sequence[Ids], trees: Sequence[Tree], device: torch.device) -> TreeBatch:
    """Join prompts and their trees into one padded batch."""
    longest = max(len(prompt) + len(tree.ids_K) for prompt, tree in zip(prompts, trees, strict=True))
    ids_BT = np.zeros((len(prompts), longest), dtype=np.int64)
    positions_BT = np.zeros_like(ids_BT)
    # Padding attends to itself: a softmax over no position at all would be NaN.
    seen_BTT = np.broadcast_to(np.eye(longest, dtype=bool), (len(prompts), longest, longest)).copy()
    rows: list[np.ndarray] = []
    for index, (prompt, tree) in enumerate(zip(prompts, trees, strict=True)):
        length, end = len(prompt), len(prompt) + len(tree.ids_K)
        ids_BT[index, :length], ids_BT[index, length:end] = prompt, tree.ids_K
        # Positions follow the depth, not the place in the batch: each path looks to the model like a plain
        # sequence.
        positions_BT[index, :length], positions_BT[index, length:end] = (
            np.arange(length),
            length + tree.depth_K,
        )
        seen_BTT[index, :length, :length] = np.tri(length, dtype=bool)
        seen_BTT[index, length:end, :length] = True
        seen_BTT[index, length:end, length:end] = tree.seen_KK
        # A parent of -1 gives length - 1: the prompt's last token.
        rows.append(length + tree.parent_E)
    owners = np.repeat(np.arange(len(prompts)), [len(row) for row in rows])
    starts = np.cumsum([0, *(len(row) for row in rows)]).tolist()
    targets_E = np.concatenate([tree.token_E for tree in trees])
    arrays = (ids_BT, positions_BT, seen_BTT[:, None], owners, np.concatenate(rows), targets_E)
    ids, positions, seen, owner_E, place_E, target_E = (
        torch.from_numpy(array).to(device) for array in arrays
    )
    return TreeBatch(ids, positions, seen, (owner_E, place_E), target_E, tuple(starts))


def summed(logp_E: Tensor, batch: TreeBatch, trees: Sequence[Tree]) -> list[list[float]]:
    """Sum the steps' log-probabilities in nats over the path of each continuation of each prompt."""
    values = logp_E.double().cpu().numpy()
    return [
        [float(values[start + np.array(path)].sum()) for path in tree.paths]
        # `starts` has one entry more than there are trees: the end of the last one.
        for start, tree in zip(batch.starts, trees, strict=False)
    ]
