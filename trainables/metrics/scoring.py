"""The interface of a model opened for scoring, and the distribution of items over ranks."""

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
    """A model opened for scoring.

    Ranks: all make the same calls, equally often; a rank without items makes them with empty batches.
    """

    @property
    def rank(self) -> int:
        """Index of this process among the workers."""
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
        """Return the log-probability in nats of each answer token, and the argmax token, both `[N]`."""
        ...

    def answer_moments(self, batch: TokenBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return `answer_stats`, and mean and standard deviation in nats over the vocabulary, all `[N]`."""
        ...

    def score_continuations(
        self, prompts: Sequence[Ids], continuations: Sequence[Sequence[Ids]]
    ) -> list[list[float]]:
        """Return the summed log-probability in nats of each continuation of each prompt."""
        ...

    def generate(self, prompts: Sequence[Ids], max_new_tokens: int) -> list[list[Ids]]:
        """Return a list with one greedy continuation for each prompt."""
        ...

    def gather(self, items: list[Any]) -> list[Any]:
        """Return the items of every rank, in the order of ranks."""
        ...


def batches_of_rank(items: Sequence[Item], scorer: Scorer, size: int) -> list[list[Item]]:
    """Return this rank's share of the items in batches.

    Items go to ranks in turn, so that items sorted by length stay balanced over ranks and have similar
    lengths within a batch.

    Args:
        items: Every item; the same sequence on every rank.
        scorer: Gives the rank and the world size.
        size: Items per batch.

    Returns:
        As many batches as on every other rank, the last ones possibly empty, since every rank of a sharded
        model must take part in every forward pass.
    """
    mine = items[scorer.rank :: scorer.world_size]
    # Counted from the longest share, so that every rank makes as many calls as the busiest one.
    calls = math.ceil(math.ceil(len(items) / scorer.world_size) / size)
    return [list(mine[call * size : (call + 1) * size]) for call in range(calls)]


def score_responses(
    scorer: Scorer, encoded: Sequence[Encoded], *, moments: bool = False
) -> dict[int, ResponseScores]:
    """Compute the teacher-forced scores of this rank's share of the responses, in one pass.

    Args:
        scorer: The opened model.
        encoded: Every response to score; the same list on every rank.
        moments: Also score the Min-K++ attack, which needs the whole distribution at each answer token.

    Returns:
        Scores by position in `encoded`. Ranks: all; each gets its own share.
    """
    # Longest first: similar lengths share a batch, and a batch too large for memory fails at once. The index
    # breaks ties, so that every rank finds the same order.
    longest_first = sorted(range(len(encoded)), key=lambda index: (-len(encoded[index].ids), index))
    scores: dict[int, ResponseScores] = {}
    for chunk in batches_of_rank(longest_first, scorer, scorer.batch):
        batch = collate([encoded[index] for index in chunk], pad_id=0)
        logp_N, argmax_N, *moments_N = scorer.answer_moments(batch) if moments else scorer.answer_stats(batch)
        # An empty chunk still holds a dummy sequence, whose length is cut off here.
        lengths = batch.lengths_B.tolist()[: len(chunk)]
        # The argmax is compared on the CPU, where the targets lie; one copy per column and batch, not one per
        # response.
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
    """Generate greedy answers to this rank's share of the prompts.

    Args:
        scorer: The opened model.
        prompts: Every prompt; the same list on every rank.
        max_new_tokens: Longest answer in tokens.
        stops: Texts that an answer is cut at, for base models that continue behind their answer.

    Returns:
        Text without end and special tokens, cut and stripped, by position in `prompts`. Ranks: all; each gets
        its own share.
    """
    longest_first = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    answers: dict[int, str] = {}
    for chunk in batches_of_rank(longest_first, scorer, scorer.batch):
        for index, (ids,) in zip(
            chunk, scorer.generate([prompts[index] for index in chunk], max_new_tokens), strict=True
        ):
            answers[index] = answer_text(scorer.tokenizer, ids, stops)
    return answers


def answer_text(tokenizer: PreTrainedTokenizerBase, ids: Ids, stops: Sequence[str] = ()) -> str:
    """Decode generated ids: without end and special tokens, cut at the first stop, stripped."""
    ends = end_ids(tokenizer)
    text = tokenizer.decode([token for token in ids if token not in ends], skip_special_tokens=True)
    assert isinstance(text, str)
    # Cut before it is stripped: a stop such as a blank line may begin with the white space that `strip`
    # removes.
    for stop in stops:
        text = text.partition(stop)[0]
    return text.strip()
