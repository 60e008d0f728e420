"""Scoring and sampling with the policy or the pristine model, on a copy per rank or on the sharded model."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from search_spaces.settings.trial_settings import EngineSettings
from trainables.data.collate import TokenBatch, collate
from trainables.data.encoding import Encoded, end_ids
from trainables.engine.cuda_graph_decoding import StaticSteps, can_be_captured
from trainables.engine.policy import AnswerTargets, Policy
from trainables.engine.zero3_engine import Weights
from trainables.generation.continuation_tree import TreeBatch, batch_of, can_run_trees, summed, tree_of
from trainables.generation.inference_engine import InferenceEngine

Result = TypeVar("Result")
Ids = tuple[int, ...]


class Choose(Protocol):
    """Chooses the next token of every sequence from its logits; `position` counts generated tokens from 0."""

    def __call__(self, logits_BV: Tensor, position: int) -> Tensor:
        """Return token ids, `[B]`."""
        ...


def greedy(logits_BV: Tensor, position: int) -> Tensor:
    """Return the most likely token of every sequence, `[B]`."""
    return logits_BV.argmax(-1)


@dataclass
class Inference:
    """A model opened for evaluation and belief sampling.

    Ranks: all make the same calls, equally often, when `lockstep`.
    """

    engine: InferenceEngine
    """Engine that holds the model."""
    call: Callable[[Callable[[Policy], Any]], Any]
    """Runs a function on the policy, under ZeRO-3's hooks when `lockstep`."""
    lockstep: bool
    """Whether the model is sharded, so that all ranks must take part in every call."""
    settings: EngineSettings
    """Batch size, chunk of the head, and whether CUDA graphs are used."""

    @property
    def rank(self) -> int:
        """Index of this process among the workers of the trial."""
        return self.engine.rank

    @property
    def world_size(self) -> int:
        """Number of workers of the trial."""
        return self.engine.world_size

    @property
    def device(self) -> torch.device:
        """Device of the model and its inputs."""
        return self.engine.device

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return self.engine.tokenizer

    @property
    def batch(self) -> int:
        """Sequences per forward pass."""
        return self.settings.evaluation_batch

    def gather(self, items: list[Any]) -> list[Any]:
        """Return the items of every rank, in the order of ranks. Ranks: all."""
        return self.engine.gather(items)

    def answer_stats(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Return the log-probability in nats of each answer token, and the argmax token, both `[N]`."""
        batch = batch.to(self.device)
        chunk = self.settings.head_chunk_tokens
        stats: tuple[Tensor, Tensor] = self.call(lambda policy: policy.answer_stats(batch, chunk))
        return stats

    def answer_moments(self, batch: TokenBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return `answer_stats`, and mean and standard deviation in nats over the vocabulary, all `[N]`."""
        batch = batch.to(self.device)
        chunk = self.settings.head_chunk_tokens
        moments: tuple[Tensor, Tensor, Tensor, Tensor] = self.call(
            lambda policy: policy.answer_moments(batch, chunk)
        )
        return moments

    def score_continuations(
        self, prompts: Sequence[Ids], continuations: Sequence[Sequence[Ids]]
    ) -> list[list[float]]:
        """Return the summed log-probability in nats of every continuation of its prompt.

        One call is one batch of any size; a rank without prompts makes it with an empty one.
        """
        if can_run_trees(self.engine.hf_config):
            return self._score_trees(prompts, continuations)
        return self._score_with_shared_prompt(prompts, continuations)

    def _score_trees(
        self, prompts: Sequence[Ids], continuations: Sequence[Sequence[Ids]]
    ) -> list[list[float]]:
        """Score all continuations in one forward pass, in which shared beginnings run once."""
        # A rank without prompts runs a dummy tree, whose scores are cut off at the end.
        trees = [tree_of(tuple(group)) for group in continuations] or [tree_of(((0, 0),))]
        batch = batch_of(list(prompts) or [(0,)], trees, self.device)
        return summed(self.call(lambda policy: self._tree_logp(policy, batch)), batch, trees)[: len(prompts)]

    def _tree_logp(self, policy: Policy, batch: TreeBatch) -> Tensor:
        output = policy.model.get_decoder()(
            input_ids=batch.ids_BT,
            attention_mask=batch.seen_B1TT,
            position_ids=batch.positions_BT,
            use_cache=False,
        )
        logp: Tensor = policy.head(
            output.last_hidden_state[batch.rows],
            AnswerTargets(batch.targets_E, self.settings.head_chunk_tokens),
        )[0]
        return logp

    def _score_with_shared_prompt(
        self, prompts: Sequence[Ids], continuations: Sequence[Sequence[Ids]]
    ) -> list[list[float]]:
        """Score in two passes, for models without custom masks; continuations share the prompt's cache."""
        filled = bool(prompts)
        width = max((len(group) for group in continuations), default=1)
        # Groups are padded to one width with copies of their first continuation, so that the cache can be
        # repeated evenly.
        groups = (
            [list(group) + [group[0]] * (width - len(group)) for group in continuations]
            if filled
            else [[(0,)]]
        )
        cache, last_logits, prefix_mask = self.prefill(list(prompts) if filled else [(0,)])
        flat = [ids for group in groups for ids in group]
        longest = max(len(ids) for ids in flat)
        ids_BL = torch.tensor([list(ids) + [0] * (longest - len(ids)) for ids in flat], device=self.device)
        valid_BL = torch.tensor(
            [[1] * len(ids) + [0] * (longest - len(ids)) for ids in flat],
            device=self.device,
            dtype=prefix_mask.dtype,
        )
        cache.batch_repeat_interleave(width)
        mask = torch.cat([prefix_mask.repeat_interleave(width, 0), valid_BL], dim=1)
        # The first token of a continuation is predicted by the prompt's last token, which the prefill has
        # run.
        first = torch.log_softmax(last_logits, -1).repeat_interleave(width, 0).gather(1, ids_BL[:, :1])
        # Positions count real tokens, so that padding inside the row does not shift them.
        positions = mask.cumsum(1)[:, -longest:] - 1
        # Position i predicts the token at i + 1. Positions whose next token is padding are left out of the
        # head, which is most of the cost.
        rows = (valid_BL[:, 1:] == 1).nonzero(as_tuple=True)
        targets = ids_BL[:, 1:][rows]
        logp_N, _ = self.call(
            lambda policy: self._cached_stats(policy, ids_BL, mask, positions, cache, rows, targets)
        )
        total = first.squeeze(1).double().index_add(0, rows[0], logp_N.double())
        scores = total.view(-1, width).tolist()
        return [row[: len(group)] for row, group in zip(scores, continuations, strict=True)] if filled else []

    def _cached_stats(
        self,
        policy: Policy,
        ids_BL: Tensor,
        mask: Tensor,
        positions: Tensor,
        cache: DynamicCache,
        rows: Any,
        targets: Tensor,
    ) -> Any:
        output = policy.model.get_decoder()(
            input_ids=ids_BL,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        return policy.head(
            output.last_hidden_state[rows], AnswerTargets(targets, self.settings.head_chunk_tokens)
        )

    def generate(
        self, prompts: Sequence[Ids], max_new_tokens: int, choose: Choose = greedy, samples: int = 1
    ) -> list[list[Ids]]:
        """Continue prompts token by token. One call is one batch.

        Args:
            prompts: Token ids of each prompt; empty on a rank without prompts that must take part in the
                call.
            max_new_tokens: Longest continuation in tokens.
            choose: Chooses each next token; rows are ordered prompt by prompt, sample by sample.
            samples: Continuations per prompt; they share one prefill.

        Returns:
            For each prompt its continuations, the end token included when it was reached. Ranks: all, when
            `lockstep`.
        """
        # A rank without prompts runs one dummy row, which counts as finished from the start.
        filled = bool(prompts)
        ends = torch.tensor(sorted(end_ids(self.tokenizer)), device=self.device)
        cache, logits, mask = self.prefill(list(prompts) if filled else [(0,)])
        cache.batch_repeat_interleave(samples)
        logits, mask = logits.repeat_interleave(samples, 0), mask.repeat_interleave(samples, 0)
        done = torch.full((logits.shape[0],), not filled, device=self.device)
        steps = self._captured_steps(cache, mask, max_new_tokens)
        columns: list[Tensor] = []
        for position in range(max_new_tokens):
            # Finished rows are fed an end token to the end of the batch; -1 marks what is not part of their
            # answer.
            token = (
                torch.where(done, ends[0], choose(logits, position))
                if filled
                else ends[0].expand(logits.shape[0])
            )
            columns.append(torch.where(done, -1, token))
            done = done | torch.isin(token, ends)
            if position == max_new_tokens - 1 or self.all_done(bool(done.all())):
                break
            if steps is not None:
                logits = steps.step(token)
                continue
            mask = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], dim=1)
            logits = self.decode(token.unsqueeze(1), mask, cache)
        tokens = (
            torch.stack(columns, dim=1).tolist() if columns else [[] for _ in range(len(prompts) * samples)]
        )
        sequences = [tuple(token for token in row if token >= 0) for row in tokens]
        return [sequences[start : start + samples] for start in range(0, len(prompts) * samples, samples)]

    def _captured_steps(
        self, cache: DynamicCache, mask_BL: Tensor, max_new_tokens: int
    ) -> StaticSteps | None:
        """Return decode steps as a CUDA graph, or None where the model is sharded or cannot be captured.

        A graph that fits is used again.
        """
        config = self.engine.hf_config
        if (
            self.lockstep
            or not self.settings.cuda_graphs
            or max_new_tokens == 1
            or not can_be_captured(config, self.device)
        ):
            return None
        (batch, length), steps = mask_BL.shape, self.engine.captured_steps
        if steps is None or not steps.fits(batch, length + max_new_tokens):
            # The old cache and graph are freed before the new ones are allocated.
            self.engine.captured_steps = None
            steps = StaticSteps(self.call, config, batch, length + max_new_tokens, self.device)
            self.engine.captured_steps = steps
        steps.begin(cache, mask_BL)
        return steps

    def all_done(self, here: bool) -> bool:
        """Whether this rank may stop generating: alone, or when every rank of a sharded model is done."""
        # A rank of a sharded model that stopped early would leave the others waiting in an all-gather.
        return self.engine.sum([float(not here)])[0] == 0 if self.lockstep else here

    def prefill(self, prompts: Sequence[Ids]) -> tuple[DynamicCache, Tensor, Tensor]:
        """Run prompts, padded on the left so that all of them continue at the same column.

        Returns:
            The key-value cache, the logits behind each prompt `[B, V]`, and the attention mask `[B, L]`.
        """
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.tensor(
            [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=self.device
        )
        mask = torch.tensor(
            [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=self.device
        )
        cache = DynamicCache(config=self.engine.hf_config)
        return cache, self.decode(ids, mask, cache), mask

    def decode(self, ids: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """Run the next tokens `[B, L]` behind the cache; returns the logits after the last one, `[B, V]`.

        The mask covers the cached tokens and the new ones.
        """
        # Positions count real tokens; clamped, since padding on the left would have position -1.
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]

        def work(policy: Policy) -> Tensor:
            """Run the decoder, and the head on the last token alone."""
            output = policy.model.get_decoder()(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            logits_BV: Tensor = policy.head(output.last_hidden_state[:, -1], None)
            return logits_BV

        result: Tensor = self.call(work)
        return result


@contextmanager
def inference(
    engine: InferenceEngine,
    settings: EngineSettings,
    weights: Weights = "policy",
    altered: Callable[[PreTrainedModel], None] | None = None,
) -> Iterator[Inference]:
    """Open a model for scoring and sampling.

    Args:
        engine: Engine that holds the model.
        settings: `inference: gathered` puts a full copy on every rank, which then works alone; `lockstep`
            keeps the shards.
        weights: `policy` (as trained so far) or `pristine` (the model before unlearning).
        altered: Changes the weights of the full copy in place before it is used; not with `lockstep`.

    Ranks: all.
    """
    if settings.inference == "gathered":
        model = engine.plain_model(weights)
        # The copy is filled anew each time it is opened, so a change lasts for this context only.
        if altered is not None:
            altered(model)
        policy = Policy(model)
        with torch.no_grad():
            yield Inference(engine, policy, False, settings)
        return
    assert altered is None, "the settings refuse probes of changed copies where there are no copies"
    with engine.lockstep_module(weights) as module:
        yield Inference(engine, module, True, settings)


Logps = tuple[float, ...]
"""Log-probability in nats of each answer token of one response, end token included."""


def answer_logps(model: Inference, encoded: Sequence[Encoded], *, at_most: int) -> list[Logps]:
    """Return the log-probability in nats of each answer token of each response.

    Args:
        model: The opened model.
        encoded: This rank's sequences.
        at_most: Largest number of sequences on any rank, so that all ranks make the same number of passes.
    """
    everything: list[Logps] = []
    for call in range(math.ceil(at_most / model.batch)):
        chunk = encoded[call * model.batch : (call + 1) * model.batch]
        logp_N, _ = model.answer_stats(collate(chunk, pad_id=0))
        # All rows of the batch come in one flat list, response after response.
        values, start = logp_N.tolist(), 0
        for item in chunk:
            everything.append(tuple(values[start : start + len(item.answer)]))
            start += len(item.answer)
    return everything
