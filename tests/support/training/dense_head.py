"""A plan with every kind of term, and its loss by dense formulas and by the fused head."""

import torch
from torch.nn.functional import linear

from search_spaces.settings.forget_settings import ForgetSettings
from search_spaces.settings.trial_settings import TokenBeliefSettings
from tests.support.training.dense_losses import (
    belief_loss,
    gradient,
    pair_loss,
    published_loss,
    retain_loss,
    row_loss,
    token_nll,
)
from trainables.losses.fused_head import FusedHead, HeadPlan, HeadTerm
from trainables.losses.methods import METHODS, LogitMethod

HIDDEN, VOCABULARY = 6, 13
FORGET, BELIEFS, PREFERRED, RETAIN = [3, 1, 4], [2, 2], [2, 3, 1], [5, 1]
PARTNERS = {"forget": [0, 1, 2], "beliefs": [2, 0]}
COEFFICIENTS = {"forget": 0.5, "beliefs": 0.25, "preferred": 1.0, "retain": 1.75}
TOKEN_BELIEFS = [
    None,
    TokenBeliefSettings(weight=0.3, top_k=4),
    TokenBeliefSettings(weight=0.3, top_k=4, temperature=2.0),
    TokenBeliefSettings(weight=0.3, top_k=4, temperature=2.0, guard_target=False),
    TokenBeliefSettings(weight=0.4, top_k=3, exclude_target=True),
]
BELIEF_NAMES = ["plain", "belief", "guarded", "unguarded", "without_target"]


def numbers(*shape, seed=0, scale=1.5):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def response_of_row(lengths):
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.long))


def inputs(with_bias=True):
    """Hidden states, weight and bias of a head that is sure of some targets."""
    rows = sum(FORGET + BELIEFS + PREFERRED + RETAIN)
    return (
        numbers(rows, HIDDEN),
        numbers(VOCABULARY, HIDDEN, seed=1),
        *([numbers(VOCABULARY, seed=2)] if with_bias else []),
    )


def make_plan(method="npo", token_belief=None, retain="nll", chunk=4, with_bias=True):
    hidden, weight, *bias = inputs(with_bias)
    targets = torch.randint(VOCABULARY, (len(hidden),), generator=torch.Generator().manual_seed(3))
    targets[::2] = linear(hidden, weight, *bias).argmax(-1)[::2]
    terms, start = [], 0
    for name, lengths in (
        ("forget", FORGET),
        ("beliefs", BELIEFS),
        ("preferred", PREFERRED),
        ("retain", RETAIN),
    ):
        rows = slice(start, start + sum(lengths))
        start = rows.stop
        if name == "preferred" and METHODS[method].preferred is None:
            continue
        kind = {"beliefs": "forget", "retain": retain}.get(name, name)
        reference = None if name == "retain" else -8 * numbers(sum(lengths), seed=start).abs() / len(lengths)
        partners = torch.tensor(PARTNERS[name]) if name in PARTNERS and METHODS[method].preferred else None
        terms.append(
            HeadTerm(
                rows,
                kind,
                COEFFICIENTS[name],
                response_of_row(lengths),
                torch.tensor(lengths),
                reference,
                partners,
            )
        )
    known = retain == "kl" or METHODS[method].needs_reference_logits
    reference = (numbers(len(hidden), HIDDEN, seed=8), numbers(VOCABULARY, HIDDEN, seed=9)) if known else None
    reference_bias = numbers(VOCABULARY, seed=10) if known and with_bias else None
    return HeadPlan(
        targets, tuple(terms), ForgetSettings(method=method), token_belief, chunk, reference, reference_bias
    )


def dense_term_loss(every_logit, plan, term):
    """Loss of one term without its coefficient."""
    logits, targets = every_logit[term.rows], plan.targets_N[term.rows]
    known = None
    if plan.reference is not None:
        known = linear(plan.reference[0][term.rows], plan.reference[1], plan.reference_bias_V)
    if term.kind == "preferred":
        return torch.zeros((), dtype=logits.dtype)  # it counts with its pairs
    if term.kind in ("nll", "kl"):
        return retain_loss(term.kind, logits, targets, known)
    if isinstance(METHODS[plan.forget.method], LogitMethod):
        return row_loss(logits, targets, term.sequence_N, plan.forget, known)
    nll = token_nll(logits, targets)
    sides = preferred_sides(every_logit, plan, term)
    if plan.token_belief is None:
        return dense_base(nll, sides, plan, term)
    fixed = [[part.detach() for part in side] for side in sides]
    _, (slopes,) = gradient(lambda nll: dense_base(nll, fixed, plan, term), nll)
    # The value is the published one at lambda 0; for the response the gradient is the mixture's alone.
    mixture = belief_loss(logits, targets, -slopes, plan.token_belief)
    return dense_base(nll.detach(), sides, plan, term) + mixture - (slopes * nll).sum().detach()


def preferred_sides(every_logit, plan, term):
    """Per response of a term its preferred answer's token losses under policy and reference."""
    if term.partner_S is None:
        return []
    answers = next(other for other in plan.terms if other.kind == "preferred")
    nll = token_nll(every_logit[answers.rows], plan.targets_N[answers.rows])
    return [
        (nll[answers.sequence_N == index], -answers.reference_logp_N[answers.sequence_N == index])
        for index in term.partner_S.tolist()
    ]


def dense_base(nll, sides, plan, term):
    """Loss of a term's responses without beliefs."""
    if not sides:
        return published_loss(nll, term.sequence_N, term.reference_logp_N, plan.forget)
    mine = [
        (nll[term.sequence_N == index], -term.reference_logp_N[term.sequence_N == index])
        for index in range(len(sides))
    ]
    return sum(pair_loss(response, side, plan.forget) for response, side in zip(mine, sides, strict=True))


def dense_loss(plan, hidden, weight, bias=None):
    logits = linear(hidden, weight, bias)
    return sum(term.coefficient * dense_term_loss(logits, plan, term) for term in plan.terms)


def fused(plan, hidden, weight, bias=None, *, scale=1.0):
    """Output and gradients of hidden states, weight and, if any, bias."""
    hidden = hidden.clone().requires_grad_()
    head = FusedHead(*(torch.nn.Parameter(tensor.clone()) for tensor in (weight, bias) if tensor is not None))
    output = head(hidden, plan)
    (output.loss * scale).backward()
    return output, [hidden.grad, *(parameter.grad for parameter in head.parameters())]


def check_same(plan, tensors, rtol=1e-10, atol=1e-11):
    output, found = fused(plan, *tensors)
    loss, expected = gradient(lambda *leaves: dense_loss(plan, *leaves), *tensors)
    torch.testing.assert_close(output.loss.detach(), loss, rtol=rtol, atol=atol)
    torch.testing.assert_close(found, list(expected), rtol=rtol, atol=atol)
