"""Token beliefs (BS-T): suppresses the policy's own top tokens at each answer position along with the target.

With the belief `q` and its share `lambda`, the one-hot target `e_y` of a base method becomes the mixture
`t = (1 - lambda) * e_y + lambda * q`, and the residual becomes `weight * (t - p)`. The weight stays that of
the base method, computed from the target alone.

Shape suffixes: N rows (answer tokens), V vocabulary.
"""

import math

import torch
from torch import Tensor

from search_spaces.settings.trial_settings import TokenBeliefSettings
from trainables.losses.residuals import Softmax, softmax_of, token_logp


# Weight and belief are constants of the loss, and buffers are overwritten: autograd must not see either.
@torch.no_grad()
def belief_residual(
    logits_NV: Tensor,
    targets_N: Tensor,
    weight_N: Tensor,
    settings: TokenBeliefSettings,
    softmax: Softmax | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the loss and the residual of a base method with token beliefs.

    Unguarded, a step can *reinforce* the target: its residual `(1 - lambda) + lambda * q_y - p_y` is negative
    for a memorised token when the belief gives it less mass than the policy does. The guard shrinks lambda at
    such a row until that residual is zero.

    Args:
        logits_NV: Logits of the policy.
        targets_N: Target tokens.
        weight_N: Weight of each row under the base method, not negative, treated as a constant.
        settings: Share, top-k, nucleus, temperature and guard of the belief.
        softmax: The softmax of the logits, if it was computed before; its buffer becomes the residual.

    Returns:
        - `weight * (<t, log p> - log p_y)` per row in nats, `[N]`, to be added to the base method's loss; 0
          at lambda 0.
        - The residual `weight * (t - p)`, `[N, V]`, which replaces the base method's.
        - Whether the guard shrank lambda at each row, `[N]`.

    Source: BS eq. 5-6.
    Deviation: the guard; `guard_target: false` is the published form.
    """
    at_target_N1 = targets_N.unsqueeze(1)
    softmax = softmax_of(logits_NV) if softmax is None else softmax
    token_NK, mass_NK = top_belief(logits_NV, targets_N, settings)
    # Belief and policy without the target. Their mass is summed, never taken as 1 - q_y or 1 - p_y: memorised
    # tokens, the ones that need the guard, have both within a rounding of 1.
    others_NK = mass_NK.masked_fill(token_NK == at_target_N1, 0.0)
    belief_mass_N = others_NK.sum(dim=-1)
    logp_NK = logits_NV.gather(1, token_NK) - softmax.log_total_N1
    # 0 * -inf would be NaN: a token without belief mass adds nothing even if its log-probability is -inf.
    gain_N = torch.where(others_NK > 0, others_NK * logp_NK, 0.0).sum(dim=-1) - belief_mass_N * token_logp(
        logits_NV, targets_N, softmax
    )
    policy_NV = softmax.probability_NV.scatter_(1, at_target_N1, 0.0)
    policy_mass_N = policy_NV.sum(dim=-1)

    share_N, guarded_N = _guarded_share(weight_N, belief_mass_N, policy_mass_N, settings)
    # Built in the softmax's own buffer: -w * p for every token, plus w * lambda * q for the tokens of the
    # belief.
    residual_NV = policy_NV.mul_(-weight_N.unsqueeze(1)).scatter_add_(
        1, token_NK, others_NK * (share_N * weight_N).unsqueeze(1)
    )
    # Exactly zero at guarded rows: the quotient times the mass could leave a rounding of either sign.
    target_N = torch.where(guarded_N, 0.0, weight_N * (policy_mass_N - share_N * belief_mass_N))
    return (
        weight_N * share_N * gain_N,
        residual_NV.scatter_(1, at_target_N1, target_N.unsqueeze(1)),
        guarded_N,
    )


def _guarded_share(
    weight_N: Tensor, belief_mass_N: Tensor, policy_mass_N: Tensor, settings: TokenBeliefSettings
) -> tuple[Tensor, Tensor]:
    """Return lambda at each row, shrunk by the guard, and whether the guard acted, both `[N]`."""
    share_N = torch.full_like(weight_N, settings.weight)
    if not settings.guards:
        return share_N, torch.zeros_like(weight_N, dtype=torch.bool)
    # The residual at the target, (1 - lambda) + lambda * q_y - p_y, is policy_mass - lambda * belief_mass:
    # the guard acts where it would be negative.
    guarded_N = share_N * belief_mass_N > policy_mass_N
    return torch.where(guarded_N, policy_mass_N / belief_mass_N, share_N), guarded_N


def belief(logits_NV: Tensor, targets_N: Tensor, settings: TokenBeliefSettings) -> Tensor:
    """Return the belief `q` as probabilities over the vocabulary, `[N, V]`, zero outside the top tokens."""
    token_NK, mass_NK = top_belief(logits_NV, targets_N, settings)
    return torch.zeros_like(logits_NV).scatter_(1, token_NK, mass_NK)


def top_belief(logits_NV: Tensor, targets_N: Tensor, settings: TokenBeliefSettings) -> tuple[Tensor, Tensor]:
    """Compute the belief `q`: a softmax with temperature over the top-k tokens or a nucleus, renormalised.

    Args:
        logits_NV: Logits of the policy.
        targets_N: Target tokens, left out of the belief with `exclude_target`.
        settings: Temperature, top-k, top-p, and whether the target is left out.

    Returns:
        Distinct tokens of each row and their probabilities, both `[N, K]`; tokens outside of the belief have
        probability 0.
    """
    width, left_out = logits_NV.shape[1], int(settings.exclude_target)
    most = min(settings.top_k, width)
    # One more than the belief holds, so that a tie at its border can be seen, and one more to fill the place
    # of a target that is left out.
    found = logits_NV.topk(min(most + 1 + left_out, width), dim=-1)
    token_NW, score_NW = found.indices, found.values / settings.temperature
    if settings.exclude_target:
        score_NW, order_NW = score_NW.masked_fill(token_NW == targets_N.unsqueeze(1), -math.inf).sort(
            dim=-1, descending=True, stable=True
        )
        token_NW = token_NW.gather(1, order_NW)
    count_N1 = torch.full_like(targets_N, most).unsqueeze(1)
    if settings.top_p < 1:
        log_total_N1 = _scores(logits_NV, targets_N, settings).logsumexp(dim=-1, keepdim=True)
        count_N1 = nucleus_size(score_NW[:, :most], log_total_N1, settings.top_p)
    # Cloned, since tied rows are overwritten below and a slice would write into the full result of `topk`.
    token_NK, score_NK = token_NW[:, :most].clone(), score_NW[:, :most].clone()
    # A row is ambiguous if the first token left out scores exactly as much as the last one taken.
    inside = count_N1 < score_NW.shape[1]
    next_N1 = score_NW.gather(1, count_N1.clamp(max=score_NW.shape[1] - 1))
    tied = (inside & (next_N1 == score_NW.gather(1, count_N1 - 1))).squeeze(1).nonzero().squeeze(1)
    if len(tied):
        # Rare: a tie at the top-k border. There may be more equal scores than `topk` fetched, so the choice
        # is made again for these rows over the full vocabulary.
        score_TV = _scores(logits_NV[tied], targets_N[tied], settings)
        chosen_TV = top_tokens(score_TV, score_NK[tied], count_N1[tied])
        again = score_TV.masked_fill_(~chosen_TV, -math.inf).topk(most, dim=-1)
        token_NK[tied], score_NK[tied] = again.indices, again.values
    places = torch.arange(most, device=logits_NV.device)
    return token_NK, score_NK.masked_fill_(places >= count_N1, -math.inf).softmax(dim=-1)


def _scores(logits_NV: Tensor, targets_N: Tensor, settings: TokenBeliefSettings) -> Tensor:
    scores_NV = logits_NV / settings.temperature
    return scores_NV.scatter_(1, targets_N.unsqueeze(1), -math.inf) if settings.exclude_target else scores_NV


def nucleus_size(top_Nk: Tensor, log_total_N1: Tensor, top_p: float) -> Tensor:
    """Count the fewest top scores whose probability mass reaches `top_p`: at least one, at most all given.

    Args:
        top_Nk: The highest scores of each row, in descending order.
        log_total_N1: Log-sum-exp of the whole row.
        top_p: The mass.

    Returns:
        The counts, `[N, 1]`.
    """
    # A token belongs to the nucleus if the mass in front of it is still below `top_p`.
    before_Nk = (top_Nk - log_total_N1).exp().cumsum(dim=-1).roll(1, dims=-1)
    before_Nk[:, 0] = 0.0
    return (before_Nk < top_p).sum(dim=-1, keepdim=True)


def top_tokens(scores_NV: Tensor, top_Nk: Tensor, count_N1: Tensor) -> Tensor:
    """Return a mask `[N, V]` of the highest scores of each row; among equal scores the lowest indices win.

    `topk` alone leaves the choice among equal scores to the kernel, and equal scores are common: bfloat16
    logits have three digits.

    Args:
        scores_NV: The scores.
        top_Nk: The highest scores, in descending order.
        count_N1: How many tokens to take, from 1 to k.
    """
    threshold_N1 = top_Nk.gather(1, count_N1 - 1)
    above_NV, tied_NV = scores_NV > threshold_N1, scores_NV == threshold_N1
    room_N1 = count_N1 - above_NV.sum(dim=-1, keepdim=True)
    return above_NV | (tied_NV & (tied_NV.cumsum(dim=-1, dtype=torch.int32) <= room_N1))
