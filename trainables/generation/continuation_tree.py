"""Many continuations of one prompt as one tree of tokens: what they share is run once, and one forward pass
scores them all.

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
"""Values of `model_type` whose every layer sees exactly what a mask shows it."""


def can_run_trees(config: PretrainedConfig) -> bool:
    """Whether such a model honours a mask of any shape."""
    text = config.get_text_config()
    full = set(getattr(text, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    plain = full and getattr(text, "sliding_window", None) is None
    # The eager form adds masks to scores, the flash kernel takes none of this shape.
    return text.model_type in FAMILIES and plain and config._attn_implementation == "sdpa"


@dataclass(frozen=True, eq=False)
class Tree:
    """Continuations that share beginnings. A token that nothing follows is scored, but never run."""

    ids_K: np.ndarray
    """Tokens that are run, each behind its parent."""
    depth_K: np.ndarray
    """Tokens between the prompt and each."""
    seen_KK: np.ndarray
    """Which others each token sees: its ancestors and itself."""
    parent_E: np.ndarray
    """From which token each scored step goes out; -1: from the prompt's last."""
    token_E: np.ndarray
    """Where it goes."""
    paths: tuple[Ids, ...]
    """Steps of each continuation."""


@lru_cache(maxsize=256)
def tree_of(continuations: tuple[Ids, ...]) -> Tree:
    """The tree of continuations, none of them empty. The same lists come again for every question of a
    kind."""
    steps: dict[tuple[int, int], int] = {}  # (step that led here, next token) -> number of the step
    paths = []
    for ids in continuations:
        here, path = -1, []
        for token in ids:
            here = steps.setdefault((here, token), len(steps))
            path.append(here)
        paths.append(tuple(path))
    followed = sorted({origin for origin, _ in steps} - {-1})
    place = {step: index for index, step in enumerate(followed)} | {-1: -1}
    origins, tokens = (np.array(column, dtype=np.int64) for column in zip(*steps, strict=True))
    seen_KK = np.eye(len(followed), dtype=bool)
    depth_K = np.zeros(len(followed), dtype=np.int64)
    for index, step in enumerate(followed):  # parents come first
        parent = place[int(origins[step])]
        if parent >= 0:
            seen_KK[index] |= seen_KK[parent]
            depth_K[index] = depth_K[parent] + 1
    parent_E = np.array([place[int(origin)] for origin in origins], dtype=np.int64)
    return Tree(tokens[followed], depth_K, seen_KK, parent_E, tokens, tuple(paths))


@dataclass(frozen=True)
class TreeBatch:
    """Prompts with their trees, padded at the end."""

    ids_BT: Tensor
    positions_BT: Tensor
    seen_B1TT: Tensor
    rows: tuple[Tensor, Tensor]
    """Prompt and place of the token from which each scored step goes out."""
    targets_E: Tensor
    starts: tuple[int, ...]
    """Where each prompt's steps begin among all."""


def batch_of(prompts: Sequence[Ids], trees: Sequence[Tree], device: torch.device) -> TreeBatch:
    """Put prompts and trees together."""
    longest = max(len(prompt) + len(tree.ids_K) for prompt, tree in zip(prompts, trees, strict=True))
    ids_BT = np.zeros((len(prompts), longest), dtype=np.int64)
    positions_BT = np.zeros_like(ids_BT)
    # Padding sees itself: a row of a softmax that sees nothing is no number.
    seen_BTT = np.broadcast_to(np.eye(longest, dtype=bool), (len(prompts), longest, longest)).copy()
    rows: list[np.ndarray] = []
    for index, (prompt, tree) in enumerate(zip(prompts, trees, strict=True)):
        length, end = len(prompt), len(prompt) + len(tree.ids_K)
        ids_BT[index, :length], ids_BT[index, length:end] = prompt, tree.ids_K
        positions_BT[index, :length], positions_BT[index, length:end] = (
            np.arange(length),
            length + tree.depth_K,
        )
        seen_BTT[index, :length, :length] = np.tri(length, dtype=bool)
        seen_BTT[index, length:end, :length] = True
        seen_BTT[index, length:end, length:end] = tree.seen_KK
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
    """Log-probability in nats of each continuation of each prompt, from that of every step."""
    values = logp_E.double().cpu().numpy()
    return [
        [float(values[start + np.array(path)].sum()) for path in tree.paths]
        for start, tree in zip(batch.starts, trees, strict=False)
    ]
