"""Packs forget examples, their beliefs, preferred answers and retain partners into one forward, and says how
each row counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from search_spaces.settings.trial_settings import TrialSettings
from trainables.data.collate import TokenBatch, collate
from trainables.data.encoding import Encoded
from trainables.generation.inference import Logps
from trainables.generation.sequence_beliefs import Belief, Beliefs
from trainables.losses.head_plan import HeadPlan, HeadTerm, Steering
from trainables.losses.methods import METHODS, Unit

Pair = tuple[int, int]
"""Index of a forget example and of the retain example that goes with it (-1: none)."""


def answer_tokens(encoded: Sequence[Encoded]) -> int:
    """Answer tokens in all, end tokens included."""
    return sum(len(item.ids) - item.prompt_length for item in encoded)


@dataclass(frozen=True)
class Group:
    """The sequences of one term of the loss."""

    kind: str
    """As in `HeadTerm`."""
    weight: float
    """Weight of the term before it is divided by its count."""
    encoded: Sequence[Encoded]
    reference: Sequence[Logps] | None = None
    """Reference log-probabilities of each sequence's answer tokens."""
    partners: Sequence[int] | None = None
    """Which preferred answer each sequence is paired with."""


@dataclass(frozen=True)
class PackedBatches:
    """Turns pairs of examples into packed micro-batches whose losses add up to the loss of the global batch.

    Every rank knows the whole global batch, so the counts that the losses are divided by need no
    communication: numerators are summed over micro-batches and ranks, and the division happens once.
    """

    trial: TrialSettings
    forget: Sequence[Encoded]
    retain: Sequence[Encoded]
    reference_logp_nats: Mapping[str, Logps]
    beliefs: Beliefs | None = None
    preferred: Beliefs | None = None
    """Answers that a method prefers to those of the forget set, one of each example's per epoch in turn."""
    steering: Steering | None = None
    """For methods that work on activations."""
    retain_weight: float | None = None
    """In place of the trial's, where a dual variable moves it."""

    def micro_batch(
        self, pairs: Sequence[Pair], global_pairs: Sequence[Pair], epoch: int = 0
    ) -> tuple[TokenBatch, HeadPlan]:
        """One packed micro-batch of `pairs`, which are part of `global_pairs`; no pairs at all give an empty
        one."""
        groups = self._groups(pairs, epoch)
        counts = [self._count(group) for group in self._groups(global_pairs, epoch)]
        batch = collate([item for group in groups for item in group.encoded], pad_id=0)
        terms: list[HeadTerm] = []
        first_row = first_sequence = 0
        for group, count in zip(groups, counts, strict=True):
            rows = slice(first_row, first_row + answer_tokens(group.encoded))
            terms.append(_term(group, rows, batch.sequence_N[rows] - first_sequence, count))
            first_row, first_sequence = rows.stop, first_sequence + len(group.encoded)
        trial = self.trial
        plan = HeadPlan(
            targets_N=batch.targets_N,
            terms=tuple(terms),
            forget=trial.forget,
            token_belief=trial.token_belief if trial.token_beliefs else None,
            chunk=trial.engine.head_chunk_tokens,
            steering=self.steering,
        )
        return batch, plan

    def longest_first(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Pairs in an order in which neighbours are alike in length, so that micro-batches cut from it hold
        little padding."""

        def length(pair: Pair) -> int:
            forget, retain = pair
            return max(len(self.forget[forget].ids), len(self.retain[retain].ids) if retain >= 0 else 0)

        return sorted(pairs, key=lambda pair: (-length(pair), pair))

    def _groups(self, pairs: Sequence[Pair], epoch: int) -> list[Group]:
        """Each part of the loss, always in the same order."""
        method, weight = METHODS[self.trial.forget.method], self.trial.forget.weight
        share = self.trial.sequence_belief.weight if self.beliefs is not None else 0.0
        targets = [self.forget[forget] for forget, _ in pairs]
        paired = range(len(targets)) if method.preferred is not None else None
        reference = (
            [self.reference_logp_nats[item.id] for item in targets] if method.needs_reference else None
        )
        groups = [Group("forget", weight * (1 - share), targets, reference, paired)]
        if self.beliefs is not None:
            samples = [self.beliefs[item.id] for item in targets]
            partners = (
                [index for index, group in enumerate(samples) for _ in group] if paired is not None else None
            )
            groups.append(
                _answers(
                    "forget",
                    weight * share,
                    list(chain.from_iterable(samples)),
                    method.needs_reference,
                    partners,
                )
            )
        if method.preferred is not None:
            assert self.preferred is not None, "this method prefers other answers"
            answers = [self.preferred[item.id] for item in targets]
            groups.append(
                _answers(
                    "preferred", 1.0, [group[epoch % len(group)] for group in answers], method.needs_reference
                )
            )
        if self.retain_kind is not None:
            retain_weight = self.trial.retain.weight if self.retain_weight is None else self.retain_weight
            groups.append(
                Group(
                    self.retain_kind,
                    retain_weight,
                    [self.retain[retain] for _, retain in pairs if retain >= 0],
                )
            )
        return groups

    @property
    def retain_kind(self) -> str | None:
        """`nll`, `kl`, `activations`, or None where nothing is retained: gradient ascent by definition, or no
        retain loss asked for."""
        if self.trial.forget.method == "ga" or self.trial.retain.loss == "none" or not self.retain:
            return None
        return self.trial.retain.loss

    @property
    def needs_reference_pass(self) -> bool:
        """Whether each step compares whole rows of logits, or activations, with the original model's."""
        return (
            self.retain_kind in ("kl", "activations")
            or METHODS[self.trial.forget.method].needs_reference_logits
        )

    def retain_count(self, pairs: Sequence[Pair]) -> int:
        """What the retain loss of these pairs is divided by."""
        return sum(self._count(group) for group in self._groups(pairs, 0) if group.kind == self.retain_kind)

    def _count(self, group: Group) -> int:
        """What the term's sum is divided by; preferred answers are divided with their pairs."""
        if group.kind == "preferred":
            return 1
        units: dict[str, Unit] = {
            "forget": METHODS[self.trial.forget.method].unit,
            "activations": "sequences",
        }
        unit = units.get(group.kind, "tokens")
        if unit == "sequences":
            return len(group.encoded)
        return answer_tokens(group.encoded) - (len(group.encoded) if unit == "later_tokens" else 0)


def _answers(
    kind: str,
    weight: float,
    answers: Sequence[Belief],
    with_reference: bool,
    partners: Sequence[int] | None = None,
) -> Group:
    """The group of some stored answers."""
    reference = [answer.reference_logp_nats or () for answer in answers] if with_reference else None
    return Group(kind, weight, [answer.encoded for answer in answers], reference, partners)


def _term(group: Group, rows: slice, sequence_N: Tensor, count: int) -> HeadTerm:
    reference = (
        None
        if group.reference is None
        else torch.tensor(list(chain.from_iterable(group.reference)), dtype=torch.float64)
    )
    return HeadTerm(
        rows=rows,
        kind=group.kind,
        coefficient=group.weight / max(1, count),
        sequence_N=sequence_N,
        lengths_S=torch.tensor([len(item.answer) for item in group.encoded], dtype=torch.long),
        reference_logp_N=reference,
        partner_S=None if group.partners is None else torch.tensor(list(group.partners), dtype=torch.long),
    )
