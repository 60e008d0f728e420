"""Scoring and sampling with the policy or the pristine model, on a full copy per rank or on the sharded model
in lock-step."""

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
from trainables.engine.zero3_engine import Engine, Weights
from trainables.generation.continuation_tree import TreeBatch, batch_of, can_run_trees, summed, tree_of

Result = TypeVar("Result")
Ids = tuple[int, ...]


class Choose(Protocol):
    """Picks the next token of every sequence from `logits_BV`; `position` counts generated tokens from 0."""

    def __call__(self, logits_BV: Tensor, position: int) -> Tensor:
        """Returns: `[B]` token ids."""
        ...


def greedy(logits_BV: Tensor, position: int) -> Tensor:
    """The most likely token."""
    return logits_BV.argmax(-1)


@dataclass
class Inference:
    """What evaluation and belief sampling see of a model. Ranks: all make the same calls, equally often, when
    `lockstep`."""

    engine: Engine
    call: Callable[[Callable[[Policy], Any]], Any]
    lockstep: bool
    settings: EngineSettings

    @property
    def rank(self) -> int:
        """This process among the workers of the trial."""
        return self.engine.rank

    @property
    def world_size(self) -> int:
        """Workers of the trial."""
        return self.engine.world_size

    @property
    def device(self) -> torch.device:
        """Where tensors must lie."""
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
        """The items of every rank, in the order of ranks. Ranks: all."""
        return self.engine.gather(items)

    def answer_stats(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Log-probability in nats and most likely token at every answer row, both `[N]`."""
        batch = batch.to(self.device)
        return self.call(lambda policy: policy.answer_stats(batch, self.settings.head_chunk_tokens))

    def answer_moments(self, batch: TokenBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`answer_stats`, and mean and standard deviation in nats of the log-probability over the vocabulary,
        all `[N]`."""
        batch = batch.to(self.device)
        return self.call(lambda policy: policy.answer_moments(batch, self.settings.head_chunk_tokens))

    def score_continuations(
        self, prompts: Sequence[Ids], continuations: Sequence[Sequence[Ids]]
    ) -> list[list[float]]:
        """Summed log-probability in nats of every continuation of its prompt, what they share computed once.

        One call is one batch, whatever it holds, so that ranks with fewer prompts can keep step with an empty
        one.
        """
        if can_run_trees(self.engine.hf_config):
            return self._score_trees(prompts, continuations)
        return self._score_with_shared_prompt(prompts, continuations)

    def _score_trees(
        self, prompts: Sequence[Ids], continuations: Sequence[Sequence[Ids]]
    ) -> list[list[float]]:
        """In one forward pass, beginnings that continuations share run once."""
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
        return policy.head(
            output.last_hidden_state[batch.rows],
            AnswerTargets(batch.targets_E, self.settings.head_chunk_tokens),
        )[0]

    def _score_with_shared_prompt(
        self, prompts: Sequence[Ids], continuations: Sequence[Sequence[Ids]]
    ) -> list[list[float]]:
        """In two passes, for models that take no mask of any shape: a prompt's key-value cache serves all of
        its continuations."""
        filled = bool(prompts)
        width = max((len(group) for group in continuations), default=1)
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
        first = torch.log_softmax(last_logits, -1).repeat_interleave(width, 0).gather(1, ids_BL[:, :1])
        positions = mask.cumsum(1)[:, -longest:] - 1
        # The token after position i is scored by the logits at i: rows that nothing follows are left out of
        # the head.
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
            prompts: Token ids of each prompt; none at all on a rank that only keeps step.
            max_new_tokens: Longest continuation.
            choose: Picks each next token; rows are ordered prompt by prompt, sample by sample.
            samples: Continuations per prompt; they share one prefill.

        Returns:
            For each prompt its continuations, the end token included when it was reached. Ranks: all, when
            `lockstep`.
        """
        filled = bool(prompts)
        ends = torch.tensor(sorted(end_ids(self.tokenizer)), device=self.device)
        cache, logits, mask = self.prefill(list(prompts) if filled else [(0,)])
        cache.batch_repeat_interleave(samples)
        logits, mask = logits.repeat_interleave(samples, 0), mask.repeat_interleave(samples, 0)
        done = torch.full((logits.shape[0],), not filled, device=self.device)
        steps = self._captured_steps(cache, mask, max_new_tokens)
        columns: list[Tensor] = []
        for position in range(max_new_tokens):
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
        """Decode steps as one CUDA graph, where the model lies whole on a GPU; a graph of the same shape is
        used again."""
        config = self.engine.hf_config
        if (
            self.lockstep
            or not self.settings.cuda_graphs
            or max_new_tokens == 1
            or not can_be_captured(config, self.device)
        ):
            return None
        (batch, length), known = mask_BL.shape, self.engine.captured_steps
        if known is None or not known.fits(batch, length + max_new_tokens):
            self.engine.captured_steps = None  # its memory goes before new memory is taken
            known = StaticSteps(self.call, config, batch, length + max_new_tokens, self.device)
            self.engine.captured_steps = known
        known.begin(cache, mask_BL)
        return known

    def all_done(self, here: bool) -> bool:
        """Whether this rank may stop: sharded ranks step together, for one that stops early leaves the others
        waiting in a gather."""
        return self.engine.sum([float(not here)])[0] == 0 if self.lockstep else here

    def prefill(self, prompts: Sequence[Ids]) -> tuple[DynamicCache, Tensor, Tensor]:
        """Run prompts, padded on the left so that all continue at one column. Returns: cache, logits after
        the prompt, mask."""
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
        """Run the next tokens `[B, L]` after what the cache holds; the mask covers both. Returns: logits
        after the last, `[B, V]`."""
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]

        def work(policy: Policy) -> Tensor:
            output = policy.model.get_decoder()(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            return policy.head(output.last_hidden_state[:, -1], None)

        return self.call(work)


@contextmanager
def inference(
    engine: Engine,
    settings: EngineSettings,
    weights: Weights = "policy",
    altered: Callable[[PreTrainedModel], None] | None = None,
) -> Iterator[Inference]:
    """Open a model for scoring and sampling.

    Args:
        engine: The trial's engine.
        settings: `inference: gathered` puts a full copy on every rank, which then works alone; `lockstep`
            keeps the shards.
        weights: `policy` (as trained so far) or `pristine` (the model before unlearning).
        altered: Changes the weights of the full copy before it is used; not with `lockstep`.

    Ranks: all.
    """
    if settings.inference == "gathered":
        model = engine.plain_model(weights)
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
    """Log-probability in nats of each answer token of each response.

    Args:
        model: The opened model.
        encoded: This rank's sequences.
        at_most: Most sequences that any rank has: all ranks then make the same number of passes.
    """
    everything: list[Logps] = []
    for call in range(math.ceil(at_most / model.batch)):
        chunk = encoded[call * model.batch : (call + 1) * model.batch]
        logp_N, _ = model.answer_stats(collate(chunk, pad_id=0))
        values, start = logp_N.tolist(), 0
        for item in chunk:
            everything.append(tuple(values[start : start + len(item.answer)]))
            start += len(item.answer)
    return everything
