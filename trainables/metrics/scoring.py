"""What the metrics ask of a model, and how items are dealt to ranks so that all make the same number of
calls."""

import math
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from trainables.data.collate import TokenBatch, collate
from trainables.data.encoding import Encoded, end_ids
from trainables.metrics.likelihood import ResponseScores, score_response

Item = TypeVar("Item")
Ids = tuple[int, ...]


class Scorer(Protocol):
    """A model opened for scoring. Ranks: all make the same calls, equally often; a rank without items calls
    with none."""

    @property
    def rank(self) -> int:
        """This process among the workers."""
        ...

    @property
    def world_size(self) -> int:
        """Number of workers."""
        ...

    @property
    def batch(self) -> int:
        """Sequences per forward pass."""
        ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        ...

    def answer_stats(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Log-probability in nats of each answer token and the most likely token in its place, both `[N]`."""
        ...

    def answer_moments(self, batch: TokenBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same, and mean and standard deviation in nats of the log-probability over the vocabulary, all
        `[N]`."""
        ...

    def score_continuations(
        self, prompts: Sequence[Ids], continuations: Sequence[Sequence[Ids]]
    ) -> list[list[float]]:
        """Summed log-probability in nats of each continuation of its prompt."""
        ...

    def generate(self, prompts: Sequence[Ids], max_new_tokens: int) -> list[list[Ids]]:
        """Greedy continuations: for each prompt a list with one."""
        ...

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of every rank, in the order of ranks."""
        ...


def dealt_batches(items: Sequence[Item], scorer: Scorer, size: int) -> list[list[Item]]:
    """This rank's share of the items in batches.

    Items are dealt in turn, so that items sorted by length stay balanced over ranks and alike within a batch.

    Returns:
        As many batches as on every other rank, the last ones possibly empty: sharded models step together.
    """
    mine = items[scorer.rank :: scorer.world_size]
    calls = math.ceil(math.ceil(len(items) / scorer.world_size) / size)
    return [list(mine[call * size : (call + 1) * size]) for call in range(calls)]


def score_responses(
    scorer: Scorer, encoded: Sequence[Encoded], *, moments: bool = False
) -> dict[int, ResponseScores]:
    """Teacher-forced scores of this rank's share of the responses, in one pass.

    Args:
        scorer: The opened model.
        encoded: Every response to score; the same list on every rank.
        moments: Also score the Min-K++ attack, which reads every row's whole distribution.

    Returns:
        Scores by position in `encoded`. Ranks: all; each gets its own share.
    """
    longest_first = sorted(range(len(encoded)), key=lambda index: (-len(encoded[index].ids), index))
    scores: dict[int, ResponseScores] = {}
    for chunk in dealt_batches(longest_first, scorer, scorer.batch):
        batch = collate([encoded[index] for index in chunk], pad_id=0)
        logp_N, argmax_N, *moments_N = scorer.answer_moments(batch) if moments else scorer.answer_stats(batch)
        lengths = batch.lengths_B.tolist()[: len(chunk)]
        columns = (
            logp_N.double(),
            argmax_N.cpu() == batch.targets_N,
            *(moment_N.double() for moment_N in moments_N),
        )
        for index, *rows in zip(chunk, *(column.cpu().split(lengths) for column in columns), strict=True):
            logp, correct, *spread = (row.numpy() for row in rows)
            scores[index] = score_response(
                logp, correct, (spread[0], spread[1]) if moments else None, ended=encoded[index].ended
            )
    return scores


def generate_answers(
    scorer: Scorer, prompts: Sequence[Ids], max_new_tokens: int, stops: Sequence[str] = ()
) -> dict[int, str]:
    """Greedy answers to this rank's share of the prompts.

    Args:
        scorer: The opened model.
        prompts: Every prompt; the same list on every rank.
        max_new_tokens: Longest answer.
        stops: Texts that an answer is cut at, for models that go on where an answer ends.

    Returns:
        Text without end and special tokens, cut, stripped, by position in `prompts`. Ranks: all; each gets
        its own share.
    """
    longest_first = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    answers: dict[int, str] = {}
    for chunk in dealt_batches(longest_first, scorer, scorer.batch):
        for index, (ids,) in zip(
            chunk, scorer.generate([prompts[index] for index in chunk], max_new_tokens), strict=True
        ):
            answers[index] = answer_text(scorer.tokenizer, ids, stops)
    return answers


def answer_text(tokenizer: PreTrainedTokenizerBase, ids: Ids, stops: Sequence[str] = ()) -> str:
    """What was generated as people read it: without end and special tokens, cut at the first stop,
    stripped."""
    ends = end_ids(tokenizer)
    text = tokenizer.decode([token for token in ids if token not in ends], skip_special_tokens=True)
    assert isinstance(text, str)
    for stop in stops:
        text = text.partition(stop)[0]
    return text.strip()
