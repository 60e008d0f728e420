"""Moments of the log-probability over the vocabulary at each answer row, which Min-K++ standardises by.

Shape suffixes: N rows (answer tokens), V vocabulary, H hidden size.
"""

import torch
from torch import Tensor, nn

from search_spaces.settings.engine_defaults import head_chunk


@torch.no_grad()
def target_moments(
    hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor, chunk: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the results of `target_logp`, and the moments of the log-probability, from the same logits.

    Args:
        hidden_NH: Hidden states that predict the targets.
        weight_VH: Weight of the head.
        bias_V: Bias of the head.
        targets_N: The answer tokens.
        chunk: Rows whose logits exist at a time; None: chosen by the device. It changes memory and speed
            only.

    Returns:
        Log-probability of each target in nats, the argmax token, and mean and standard deviation in nats of
        the log-probability of a token drawn from the row, all `[N]`; float32, or float64 for float64 inputs.
    """
    dtype = torch.promote_types(hidden_NH.dtype, torch.float32)
    logp_N, mean_N, deviation_N = (hidden_NH.new_empty(len(targets_N), dtype=dtype) for _ in range(3))
    argmax_N = torch.empty_like(targets_N)
    size = head_chunk(chunk, len(weight_VH), gpu=weight_VH.is_cuda)
    for start in range(0, len(targets_N), size):
        rows = slice(start, start + size)
        logits_NV = nn.functional.linear(hidden_NH[rows], weight_VH, bias_V).to(dtype)
        # The argmax of the logits: two different logits may have log-probabilities that round to one value.
        argmax_N[rows] = logits_NV.argmax(dim=-1)
        logp_NV = logits_NV.log_softmax(dim=-1)
        logp_N[rows] = logp_NV.gather(1, targets_N[rows].unsqueeze(1)).squeeze(1)
        mean_N[rows], deviation_N[rows] = logp_moments(logp_NV)
    return logp_N, argmax_N, mean_N, deviation_N


def logp_moments(logp_NV: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of log p(v) in nats for v drawn from p, both `[N]`.

    The mean is minus the entropy.
    """
    p_NV = logp_NV.exp()
    mean_N = torch.linalg.vecdot(p_NV, logp_NV)
    # Centred first: the difference E[x^2] - E[x]^2 is nothing but rounding where the row is flat.
    variance_N = torch.linalg.vecdot(p_NV, (logp_NV - mean_N.unsqueeze(1)).square_())
    return mean_N, variance_N.sqrt()
