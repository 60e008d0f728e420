"""Published losses on whole `[N, V]` logits, left to autograd: slow, plain, and sharing nothing with our
code."""

import torch
from torch.nn.functional import cross_entropy, kl_div, logsigmoid

from search_spaces.settings.forget_settings import ForgetSettings
from search_spaces.settings.trial_settings import TokenBeliefSettings


def random_rows(lengths, vocabulary, *, seed=0, sharpness=3.0):
    """Float64 logits, targets of which every other one is the most likely token, and the response of each
    row."""
    generator = torch.Generator().manual_seed(seed)
    rows = sum(lengths)
    logits = sharpness * torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64)
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    targets[::2] = logits[::2].argmax(-1)
    return logits, targets, torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))


def token_nll(logits, targets):
    """Negative log-probability of each target."""
    return cross_entropy(logits, targets, reduction="none")


def published_loss(nll, responses, reference, settings: ForgetSettings):
    """Sum over responses of the published loss of a method that pushes targets down.

    `nll` is the negative log-probability of each token, `reference` the log-probability of each under the
    reference.
    """
    total = nll.new_zeros(())
    for index in responses.unique().tolist():
        tokens, known = nll[responses == index], None if reference is None else reference[responses == index]
        total = total + _response_loss(tokens, known, settings)
    return total


def _response_loss(tokens, known, settings):
    p, constant = torch.exp(-tokens), torch.exp(-tokens.detach())
    if settings.method in ("ga", "graddiff"):
        return -tokens.sum()
    if settings.method == "npo":
        beta = settings.npo.beta
        return -2 / beta * logsigmoid(-beta * (-tokens.sum() - known.sum()))
    if settings.method == "simnpo":
        beta, delta = settings.simnpo.beta, settings.simnpo.delta
        return -2 / beta * logsigmoid(beta * (tokens.mean() - delta))
    if settings.method == "tnpo":
        beta = settings.tnpo.beta
        return (2 / beta * torch.log(1 + (p / known.exp()) ** beta)).sum()
    if settings.method == "wtnpo":
        alpha, beta = settings.wtnpo.alpha, settings.wtnpo.beta
        return -(2 * constant ** (alpha + beta) / (constant**beta + known.exp() ** beta) * tokens).sum()
    if settings.method == "satimp":
        return -(constant**settings.satimp.beta1 * (1 - constant) ** settings.satimp.beta2 * tokens).sum()
    assert settings.method == "wga"
    return -(constant**settings.wga.alpha * tokens).sum()


def pair_loss(response, preferred, settings: ForgetSettings):
    """Published loss of one pair; each side is the negative log-probabilities of its tokens and those under
    the reference, negated too."""
    (tokens, reference), (good, good_reference) = response, preferred
    if settings.method in ("dpo", "altpo"):
        beta = getattr(settings, settings.method).beta
        log_ratio, good_log_ratio = reference.sum() - tokens.sum(), good_reference.sum() - good.sum()
        return -2 / beta * logsigmoid(beta * (good_log_ratio - log_ratio))
    y, g = torch.exp(-tokens).mean(), torch.exp(-good).mean()
    return {
        "total_variation": (torch.tanh(y) - torch.tanh(g)) / 2,
        "kl": torch.exp(y - 1) - g,
        "reverse_kl": y - 1 + torch.exp(-g),
        "jeffrey": y + y * y / 4 + y * y * y / 16 - g,
        "squared_hellinger": (1 - torch.exp(-y)) / torch.exp(-y) - (1 - torch.exp(-g)),
        "pearson": y * y / 4 + y - g,
        "neyman": 2 - 2 * torch.sqrt(torch.exp(-y)) - (1 - torch.exp(-g)),
        "jensen_shannon": torch.log(torch.exp(y) + 1)
        - torch.log(torch.tensor(2.0))
        - torch.log(2 / (1 + torch.exp(-g))),
    }[settings.flat.divergence]


def row_loss(logits, targets, responses, settings: ForgetSettings, reference_logits=None):
    """Sum of the published loss of a method that looks at whole rows of logits."""
    total = logits.new_zeros(())
    for index, (row, target) in enumerate(zip(logits, targets.tolist(), strict=True)):
        if settings.method == "pdu":
            total = total + (row.max() - row.mean()) ** 2
        elif settings.method == "undial":
            taught = reference_logits[index].clone()
            taught[target] -= settings.undial.beta
            total = total + cross_entropy(row.unsqueeze(0), taught.softmax(-1).unsqueeze(0))
        elif index > 0 and responses[index] == responses[index - 1]:
            taught = row.detach().clone()
            taught[target] = float("-inf")
            total = total + cross_entropy(row.unsqueeze(0), taught.softmax(-1).unsqueeze(0))
    return total


def published_weights(nll, responses, reference, settings):
    """Derivative of the published loss with respect to each target's log-probability, by autograd."""
    _, (gradients,) = gradient(lambda nll: published_loss(nll, responses, reference, settings), nll)
    return -gradients


def slow_belief(row, target, settings: TokenBeliefSettings):
    """The belief of one row, token by token."""
    tokens = [token for token in range(len(row)) if not (settings.exclude_target and token == target)]
    best = sorted(tokens, key=lambda token: (-float(row[token]), token))[: settings.top_k]
    scores = torch.exp((row[best] - row.max()) / settings.temperature)
    if settings.top_p < 1:
        whole = torch.exp((row[tokens] - row.max()) / settings.temperature).sum()
        nucleus = 1 + next(
            (index for index in range(len(best)) if scores[: index + 1].sum() / whole >= settings.top_p),
            len(best) - 1,
        )
        best, scores = best[:nucleus], scores[:nucleus]
    belief = torch.zeros_like(row)
    belief[best] = scores / scores.sum()
    return belief


def slow_mixtures(logits, targets, settings):
    """The mixture `t` of each row and whether the guard changed it, row by row."""
    mixtures, guarded = torch.zeros_like(logits), torch.zeros(len(targets), dtype=torch.bool)
    for index, target in enumerate(targets.tolist()):
        row = logits[index].detach()
        policy, belief, share = row.softmax(-1), slow_belief(row, target, settings), settings.weight
        if settings.guards and (1 - share) + share * belief[target] < policy[target]:
            share, guarded[index] = float((1 - policy[target]) / (1 - belief[target])), True
        mixtures[index] = share * belief
        mixtures[index, target] += 1 - share
    return mixtures, guarded


def belief_loss(logits, targets, weights, settings):
    """`sum of weight * <t, log p>`, weight and mixture held constant."""
    mixtures, _ = slow_mixtures(logits, targets, settings)
    return (weights * (mixtures * logits.log_softmax(-1)).sum(-1)).sum()


def retain_loss(kind, logits, targets, reference_logits=None):
    """Sum of the retain loss."""
    if kind == "nll":
        return cross_entropy(logits, targets, reduction="sum")
    return kl_div(logits.log_softmax(-1), reference_logits.softmax(-1), reduction="sum")


def gradient(function, *tensors):
    """Value of a scalar function and its gradients with respect to all its arguments."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    value = function(*leaves)
    return value.detach(), torch.autograd.grad(value, leaves)
