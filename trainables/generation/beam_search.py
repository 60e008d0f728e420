"""Beam search: finds the most likely responses of a model, deterministically.

Shape suffixes: P prompts, K beams, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainables.data.encoding import end_ids
from trainables.generation.inference import Ids, Inference


@dataclass
class _Search:
    """State of the search for one prompt."""

    live: list[tuple[float, Ids]] = field(default_factory=lambda: [(0.0, ())])
    """Unfinished beams, best first: log-probability in nats, and tokens."""
    ended: list[tuple[float, Ids]] = field(default_factory=list)
    """Beams that have reached an end token, best first, at most the number of beams."""

    def settled(self, beams: int) -> bool:
        """Whether no live beam can still become one of the best."""
        # Every further token only lowers a summed log-probability, so a live beam below the worst finished
        # one stays below it.
        return not self.live or (len(self.ended) == beams and self.ended[-1][0] >= self.live[0][0])

    def best(self, count: int) -> list[tuple[float, Ids]]:
        """Return the most likely beams, unfinished ones included where the length limit cut them."""
        return sorted(self.ended + self.live, key=lambda beam: -beam[0])[:count]


def beam_search(
    model: Inference, prompts: Sequence[Ids], beams: int, max_new_tokens: int
) -> list[list[tuple[float, Ids]]]:
    """Find the most likely responses to prompts by summed log-probability, without a length penalty.

    One call is one batch.

    Args:
        model: The opened model.
        prompts: Token ids of each prompt; empty on a rank without prompts that must take part in the calls.
        beams: Beams per prompt, and responses returned.
        max_new_tokens: Longest response in tokens.

    Returns:
        For each prompt its responses, most likely first: log-probability in nats, and tokens, the end token
        included where it was reached; fewer than `beams` if no more exist. Ranks: all, when `lockstep`.
    """
    # A rank without prompts runs a dummy token, since a sharded model gathers its weights on all ranks.
    filled = bool(prompts)
    searches = [_Search() for _ in prompts]
    ends = end_ids(model.tokenizer)
    cache, logits, mask = model.prefill(list(prompts) if filled else [(0,)])
    rows = [[index] for index in range(len(prompts))]
    for position in range(max_new_tokens):
        chosen = _advance(searches, rows, logits, beams, ends) if filled else [(0, 0)]
        settled = all(search.settled(beams) for search in searches)
        if position == max_new_tokens - 1 or model.all_done(settled):
            break
        # A rank whose searches are settled keeps taking part with one row until all ranks are done.
        chosen = chosen or [(0, 0)]
        rows = _rows_of(searches)
        parents = torch.tensor([row for row, _ in chosen], device=mask.device)
        # Beams move between rows: each new beam continues from the keys and values of its parent.
        cache.batch_select_indices(parents)
        mask = torch.cat([mask[parents], mask.new_ones(len(chosen), 1)], dim=1)
        logits = model.decode(torch.tensor([[token] for _, token in chosen], device=mask.device), mask, cache)
    return [search.best(beams) for search in searches]


def _rows_of(searches: Sequence[_Search]) -> list[list[int]]:
    """Return the row of each live beam in the next batch, search by search."""
    rows: list[list[int]] = []
    start = 0
    for search in searches:
        rows.append(list(range(start, start + len(search.live))))
        start += len(search.live)
    return rows


def _advance(
    searches: Sequence[_Search],
    rows: Sequence[Sequence[int]],
    logits: Tensor,
    beams: int,
    ends: frozenset[int],
) -> list[tuple[int, int]]:
    """Let every search choose its next beams from the logits `[rows, V]`.

    Returns:
        For each new live beam, search by search, the row of its parent and its token.
    """
    # Each row offers one candidate more for every end token: even if all end tokens are among its best, as
    # many others as there are beams remain. float64, since sums over hundreds of tokens are compared.
    most = min(beams + len(ends), logits.shape[1])
    top = torch.log_softmax(logits.double(), -1).topk(most, dim=-1)
    values, tokens = top.values.tolist(), top.indices.tolist()
    chosen: list[tuple[int, int]] = []
    for search, mine in zip(searches, rows, strict=True):
        candidates = [
            (score + value, row, (*ids, token))
            for (score, ids), row in zip(search.live, mine, strict=True)
            for value, token in zip(values[row], tokens[row], strict=True)
            if value > -math.inf
        ]
        # Python's sort is stable: among equal scores the first row wins, on every rank alike.
        candidates.sort(key=lambda candidate: -candidate[0])
        # A beam ends only if its end token is among the best candidates, so that one beam gives the greedy
        # answer.
        ended = [(score, ids) for score, _, ids in candidates[:beams] if ids[-1] in ends]
        survivors = [(score, row, ids) for score, row, ids in candidates if ids[-1] not in ends][:beams]
        search.ended = sorted(search.ended + ended, key=lambda beam: -beam[0])[:beams]
        search.live = [(score, ids) for score, _, ids in survivors]
        # A settled search frees its rows for the rest of the batch.
        if search.settled(beams):
            search.live, survivors = [], []
        chosen += [(row, ids[-1]) for _, row, ids in survivors]
    return chosen
