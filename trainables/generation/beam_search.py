"""Beam search: the responses that a model finds most likely, without chance.

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
    """The search behind one prompt."""

    live: list[tuple[float, Ids]] = field(default_factory=lambda: [(0.0, ())])
    """Unfinished beams, best first: log-probability in nats, and tokens."""
    ended: list[tuple[float, Ids]] = field(default_factory=list)
    """Beams that have reached an end token, best first, no more than there are beams."""

    def settled(self, beams: int) -> bool:
        """Whether nothing that lives can still join the best: every token only lowers a sum."""
        return not self.live or (len(self.ended) == beams and self.ended[-1][0] >= self.live[0][0])

    def best(self, count: int) -> list[tuple[float, Ids]]:
        """The most likely beams, cut short where the length ended them."""
        return sorted(self.ended + self.live, key=lambda beam: -beam[0])[:count]


def beam_search(
    model: Inference, prompts: Sequence[Ids], beams: int, max_new_tokens: int
) -> list[list[tuple[float, Ids]]]:
    """The most likely responses to prompts, by summed log-probability, without a length penalty. One call is
    one batch.

    Args:
        model: The opened model.
        prompts: Token ids of each prompt; none at all on a rank that only keeps step.
        beams: Beams per prompt, and responses returned.
        max_new_tokens: Longest response.

    Returns:
        Per prompt its responses, most likely first: log-probability in nats, and tokens, end token included
        where it was reached. Fewer
        than `beams` where there are no more. Ranks: all, when `lockstep`.
    """
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
        # A rank that is done keeps step with its first row.
        chosen = chosen or [(0, 0)]
        rows = _rows_of(searches)
        parents = torch.tensor([row for row, _ in chosen], device=mask.device)
        cache.batch_select_indices(parents)
        mask = torch.cat([mask[parents], mask.new_ones(len(chosen), 1)], dim=1)
        logits = model.decode(torch.tensor([[token] for _, token in chosen], device=mask.device), mask, cache)
    return [search.best(beams) for search in searches]


def _rows_of(searches: Sequence[_Search]) -> list[list[int]]:
    """The row of each live beam in the next batch."""
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
    """Let every search choose its next beams.

    Returns:
        For each new live beam, search by search, the row that it goes on from and its token.
    """
    # As many ends as there are beams may be among the best, so twice as many candidates always leave enough
    # that live on.
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
        candidates.sort(key=lambda candidate: -candidate[0])
        # An end counts where it is among the best: with one beam this is the greedy answer.
        ended = [(score, ids) for score, _, ids in candidates[:beams] if ids[-1] in ends]
        survivors = [(score, row, ids) for score, row, ids in candidates if ids[-1] not in ends][:beams]
        search.ended = sorted(search.ended + ended, key=lambda beam: -beam[0])[:beams]
        search.live = [(score, ids) for score, _, ids in survivors]
        if search.settled(beams):
            search.live, survivors = [], []
        chosen += [(row, ids[-1]) for _, row, ids in survivors]
    return chosen
