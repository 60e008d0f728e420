"""Fresh samples of the policy at temperature 1 teach plain gradient ascent nothing, in expectation:
method.md, section 2.

The expectation is taken exactly, over every answer of a small model.
"""

from itertools import groupby

import pytest
import torch

from tests.support.training.enumerated_answers import END, VOCABULARY, all_answers
from tests.support.training.plain_engine import random_llama

PROMPT, LENGTH = (3, 1, 4), 3


def expected_gradient(weigh, answers):
    """Sum over answers of P(answer) times the gradient of its weighed log-probability, with respect to the
    head."""
    model = random_llama(3, vocabulary=VOCABULARY, sharpness=4.0)
    expectation, mass = torch.zeros((), dtype=torch.float64), 0.0
    for _, group in groupby(sorted(answers, key=len), key=len):
        alike = list(group)
        ids, weights = torch.tensor(alike), torch.stack([weigh(one) for one in alike])
        inputs = torch.cat([torch.tensor([PROMPT]).expand(len(alike), -1), ids], 1)
        logits = model(input_ids=inputs).logits[:, len(PROMPT) - 1 : -1]
        logp = logits.log_softmax(-1).gather(2, ids.unsqueeze(2)).squeeze(2)
        probability = logp.sum(1).exp().detach()
        expectation = expectation + (probability * (weights * logp).sum(1)).sum()
        mass += float(probability.sum())
    (gradient,) = torch.autograd.grad(expectation, model.lm_head.weight)
    return float(gradient.abs().max()), mass


def whole(ids):
    return torch.ones(len(ids))


def test_all_answers_are_a_distribution_whose_score_is_zero_in_expectation():
    largest, mass = expected_gradient(whole, all_answers(LENGTH))
    assert mass == pytest.approx(1.0, rel=1e-6)
    assert largest < 1e-6


@pytest.mark.parametrize(
    ("name", "weigh", "kept"),
    [
        ("a mean over each response", lambda ids: torch.full((len(ids),), 1 / len(ids)), lambda ids: True),
        (
            "an end token that is no target",
            lambda ids: torch.tensor([float(token != END) for token in ids]),
            lambda ids: True,
        ),
        ("empty samples dropped", whole, lambda ids: ids != (END,)),
        ("truncated samples dropped", whole, lambda ids: ids[-1] == END),
    ],
)
def test_what_breaks_the_identity_is_what_sequence_beliefs_learn_from(name, weigh, kept):
    largest, _ = expected_gradient(weigh, [ids for ids in all_answers(LENGTH) if kept(ids)])
    assert largest > 1e-3, name
