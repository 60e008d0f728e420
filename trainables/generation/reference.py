"""Log-probabilities of responses under a model as it is: what NPO and others compare the policy with."""

import math
from collections.abc import Sequence

from trainables.data.collate import collate
from trainables.data.encoding import Encoded
from trainables.generation.inference import Inference

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
