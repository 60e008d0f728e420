"""Padded token batches, with the index of the hidden state that predicts each answer token."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from trainables.data.encoding import Encoded


@dataclass
class TokenBatch:
    """Sequences of one forward pass, padded on the right; answer rows are in order of sequence."""

    input_ids_BL: Tensor
    """Token ids. The last answer token of a sequence is a target only and is not fed."""
    attention_mask_BL: Tensor
    """One where a token is fed. It is made from lengths, since the padding id may be the end token."""
    rows_N: Tensor
    """Flat index `b * L + position` of the hidden state that predicts each answer token."""
    targets_N: Tensor
    """The answer tokens."""
    sequence_N: Tensor
    """Sequence index `b` of each row."""
    num_sequences: int
    """Number of real sequences; 0 where the batch holds one dummy sequence."""
    lengths_B: Tensor
    """Answer tokens per sequence; 0 for a dummy."""

    def to(self, device: torch.device | str) -> Self:
        """Return a copy of the batch on a device."""
        return replace(
            self,
            input_ids_BL=self.input_ids_BL.to(device),
            attention_mask_BL=self.attention_mask_BL.to(device),
            rows_N=self.rows_N.to(device),
            targets_N=self.targets_N.to(device),
            sequence_N=self.sequence_N.to(device),
            lengths_B=self.lengths_B.to(device),
        )


def collate(encoded: Sequence[Encoded], pad_id: int, *, pad_to_multiple: int = 1) -> TokenBatch:
    """Pad encoded examples into one batch.

    Args:
        encoded: The sequences. An empty list gives ONE dummy sequence (a single padding token) and zero rows,
            so that a rank with nothing to do still runs the forward pass that the others wait for.
        pad_id: Padding id; it is masked, so any id will do.
        pad_to_multiple: Round the padded length up to a multiple of this.
    """
    # The last token of a sequence is only predicted, so a sequence of n ids takes n - 1 columns.
    lengths = [len(item.ids) - 1 for item in encoded] or [1]
    longest = -(-max(lengths) // pad_to_multiple) * pad_to_multiple
    input_ids_BL = torch.full((len(lengths), longest), pad_id, dtype=torch.long)
    rows: list[int] = []
    targets: list[int] = []
    sequence: list[int] = []
    for index, item in enumerate(encoded):
        assert 0 < item.prompt_length < len(item.ids), "a prompt and an answer have at least one token each"
        input_ids_BL[index, : len(item.ids) - 1] = torch.tensor(item.ids[:-1], dtype=torch.long)
        # The hidden state at position i - 1 predicts token i, hence the shift by one.
        start = index * longest - 1
        # Flat indices into `[B * L]`, so that one gather picks the rows of all sequences.
        rows.extend(range(start + item.prompt_length, start + len(item.ids)))
        targets.extend(item.ids[item.prompt_length :])
        sequence.extend([index] * (len(item.ids) - item.prompt_length))
    mask_BL = (torch.arange(longest).unsqueeze(0) < torch.tensor(lengths).unsqueeze(1)).long()
    return TokenBatch(
        input_ids_BL=input_ids_BL,
        attention_mask_BL=mask_BL,
        rows_N=torch.tensor(rows, dtype=torch.long),
        targets_N=torch.tensor(targets, dtype=torch.long),
        sequence_N=torch.tensor(sequence, dtype=torch.long),
        num_sequences=len(encoded),
        lengths_B=torch.tensor(
            [len(item.ids) - item.prompt_length for item in encoded] or [0], dtype=torch.long
        ),
    )
