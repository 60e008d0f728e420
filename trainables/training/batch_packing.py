"""Packs forget examples, beliefs, preferred answers and retain partners into one forward pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from search_spaces.catalogue.method_catalogue import Unit
from search_spaces.settings.trial_settings import TrialSettings
from trainables.data.collate import TokenBatch, collate
from trainables.data.encoding import Encoded
from trainables.generation.inference import Logps
from trainables.generation.sequence_beliefs import Belief, Beliefs
from trainables.losses.head_plan import HeadPlan, HeadTerm, Steering
from trainables.losses.methods import METHODS

Pair = tuple[int, int]
"""Index of a forget example and of its retain partner (-1: none)."""


def answer_tokens(encoded: Sequence[Encoded]) -> int:
    """Count the answer tokens of all sequences, end tokens included."""
    return sum(len(item.ids) - item.prompt_length for item in encoded)


@dataclass(frozen=True)
class Group:
    """The sequences of one term of the loss."""

    kind: str
    """Kind of the term, as in `HeadTerm`."""
    weight: float
    """Weight of the term before the division by its count."""
    encoded: Sequence[Encoded]
    """Sequences, in the order in which they are packed."""
    reference: Sequence[Logps] | None = None
    """Reference log-probabilities of each sequence's answer tokens in nats."""
    partners: Sequence[int] | None = None
    """Index of the preferred answer that each sequence is paired with."""


@dataclass(frozen=True)
class PackedBatches:
    """Turns pairs of examples into packed micro-batches whose losses add up to the loss of the global batch.

    Every rank computes the whole global batch, so the counts that losses are divided by need no
    communication: numerators are summed over micro-batches and ranks, and the division happens once.
    """

    trial: TrialSettings
    """Settings of the trial."""
    forget: Sequence[Encoded]
    """The forget set."""
    retain: Sequence[Encoded]
    """The retain set; may be empty."""
    reference_logp_nats: Mapping[str, Logps]
    """Log-probabilities of each forget response's tokens under the original model, by example id."""
    beliefs: Beliefs | None = None
    """Sampled responses by example id; None for trials without sequence beliefs."""
    preferred: Beliefs | None = None
    """Preferred answers by example id; each epoch uses the next one. None for methods without them."""
    steering: Steering | None = None
    """Layer and target of an activation method; None for other methods."""
    retain_weight: float | None = None
    """Retain weight that replaces the trial's where a dual variable sets it."""

    def micro_batch(
        self, pairs: Sequence[Pair], global_pairs: Sequence[Pair], epoch: int = 0
    ) -> tuple[TokenBatch, HeadPlan]:
        """Pack one micro-batch and its plan.

        Args:
            pairs: Pairs of this micro-batch; an empty list gives a batch of one dummy sequence.
            global_pairs: All pairs of the step, over whose counts the losses are averaged.
            epoch: Number of the epoch, from 0, which selects the preferred answer.
        """
        groups = self._groups(pairs, epoch)
        # Divided by the counts of the global batch: averages of micro-batches would weigh short responses
        # more.
        counts = [self._count(group) for group in self._groups(global_pairs, epoch)]
        batch = collate([item for group in groups for item in group.encoded], pad_id=0)
        terms: list[HeadTerm] = []
        first_row = first_sequence = 0
        for group, count in zip(groups, counts, strict=True):
            # Sequences of one group are contiguous in the batch, and so are their answer rows.
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
        """Sort pairs by length, so that micro-batches cut from the list have little padding."""

        def length(pair: Pair) -> int:
            forget, retain = pair
            return max(len(self.forget[forget].ids), len(self.retain[retain].ids) if retain >= 0 else 0)

        # The pair breaks ties, so that every rank finds the same order.
        return sorted(pairs, key=lambda pair: (-length(pair), pair))

    def _groups(self, pairs: Sequence[Pair], epoch: int) -> list[Group]:
        """Return the groups of the loss, always in the same order: targets, beliefs, preferred, retain."""
        method, weight = METHODS[self.trial.forget.method], self.trial.forget.weight
        share = self.trial.sequence_belief.weight if self.beliefs is not None else 0.0
        targets = [self.forget[forget] for forget, _ in pairs]
        paired = range(len(targets)) if method.preferred is not None else None
        reference = (
            [self.reference_logp_nats[item.id] for item in targets] if method.needs_reference else None
        )
        # BS-S: the forget loss is (1 - share) * L(targets) + share * L(beliefs), two terms of one method.
        groups = [Group("forget", weight * (1 - share), targets, reference, paired)]
        if self.beliefs is not None:
            samples = [self.beliefs[item.id] for item in targets]
            # A belief is paired with the preferred answer of its example.
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
        """`nll`, `kl` or `activations`; None for gradient ascent, without a retain loss, or without data."""
        if self.trial.forget.method == "ga" or self.trial.retain.loss == "none" or not self.retain:
            return None
        return self.trial.retain.loss

    @property
    def needs_reference_pass(self) -> bool:
        """Whether each step needs the original model's logits or activations, and so a forward pass of it."""
        return (
            self.retain_kind in ("kl", "activations")
            or METHODS[self.trial.forget.method].needs_reference_logits
        )

    def retain_count(self, pairs: Sequence[Pair]) -> int:
        """Return the count that the retain loss of these pairs is divided by."""
        return sum(self._count(group) for group in self._groups(pairs, 0) if group.kind == self.retain_kind)

    def _count(self, group: Group) -> int:
        """Return the count that the term's sum is divided by, in the method's unit."""
        # The pairs' forget terms carry the count already, and pass it on to their preferred answers.
        if group.kind == "preferred":
            return 1
        units: dict[str, Unit] = {
            "forget": METHODS[self.trial.forget.method].unit,
            "activations": "sequences",
        }
        unit = units.get(group.kind, "tokens")
        if unit == "sequences":
            return len(group.encoded)
        # In `later_tokens` each response's first token has no loss, and is not counted.
        return answer_tokens(group.encoded) - (len(group.encoded) if unit == "later_tokens" else 0)


def _answers(
    kind: str,
    weight: float,
    answers: Sequence[Belief],
    with_reference: bool,
    partners: Sequence[int] | None = None,
) -> Group:
    """Make the group of some stored answers."""
    reference = [answer.reference_logp_nats or () for answer in answers] if with_reference else None
    return Group(kind, weight, [answer.encoded for answer in answers], reference, partners)


def _term(group: Group, rows: slice, sequence_N: Tensor, count: int) -> HeadTerm:
    # float64: margins are small differences of log-probabilities.
    reference = (
        None
        if group.reference is None
        else torch.tensor(list(chain.from_iterable(group.reference)), dtype=torch.float64)
    )
    return HeadTerm(
        rows=rows,
        kind=group.kind,
        # A count of 0 comes with no rows; the coefficient must only be finite.
        coefficient=group.weight / max(1, count),
        sequence_N=sequence_N,
        lengths_S=torch.tensor([len(item.answer) for item in group.encoded], dtype=torch.long),
        reference_logp_N=reference,
        partner_S=None if group.partners is None else torch.tensor(list(group.partners), dtype=torch.long),
    )
