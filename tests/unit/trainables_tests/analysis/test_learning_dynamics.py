"""The AKG prediction against the step itself, in float64, and against a dense kernel."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from search_spaces.catalogue.method_catalogue import METHODS
from search_spaces.settings.trial_settings import TrialSettings
from tests.support.training.plain_engine import half_memorised, random_examples, random_llama
from trainables.analysis.learning_dynamics import (
    ResidualMass,
    actual_change,
    predicted_change,
    residual_mass,
    step_gradient,
)
from trainables.data.collate import collate
from trainables.engine.policy import Policy
from trainables.generation.sequence_beliefs import Belief
from trainables.training.batch_packing import PackedBatches

BASES = [name for name, info in METHODS.items() if info.token_beliefs and not info.preferred_answers]
RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)


@pytest.fixture(scope="module")
def model():
    model = random_llama(sharpness=6.0)
    model.set_attn_implementation("eager")
    return model


@pytest.fixture(scope="module")
def forget(model):
    return half_memorised(model, random_examples("forget", [(3, 4), (2, 5), (4, 3)], seed=1))


@pytest.fixture(scope="module")
def probe(forget):
    unrelated = random_examples("unrelated", [(3, 4), (2, 6), (5, 3)], seed=7)
    return collate([*forget, *unrelated], pad_id=0)


def update(model, forget, method, beliefs="none", **more):
    """One packed update on all forget examples, and how its rows count."""
    settings = {
        "forget": {"method": method},
        "retain": {"loss": "none"},
        "beliefs": beliefs,
        "token_belief": {"weight": 0.4, "top_k": 5},
    }
    trial = TrialSettings.model_validate({**settings, **more})
    generator = np.random.default_rng(0)
    reference = {item.id: tuple((-generator.random(len(item.answer)) * 3).tolist()) for item in forget}
    samples = None
    if trial.sequence_beliefs:
        drawn = random_examples("drawn", [(item.prompt_length, 3) for item in forget], seed=5)
        samples = {
            item.id: (
                Belief(
                    replace(one, ids=item.ids[: item.prompt_length] + one.answer),
                    tuple([-1.0] * len(one.answer)),
                ),
            )
            for item, one in zip(forget, drawn, strict=True)
        }
    packed_batches = PackedBatches(trial, forget, (), reference, beliefs=samples)
    pairs = [(index, -1) for index in range(len(forget))]
    return packed_batches.micro_batch(pairs, pairs)


def slope_and_correlation(predicted, actual):
    return float(predicted @ actual / (predicted @ predicted)), float(np.corrcoef(predicted, actual)[0, 1])


@pytest.mark.parametrize("beliefs", ["none", "token", "sequence", "token+sequence"])
@pytest.mark.parametrize("method", BASES)
def test_prediction_is_what_happens_as_the_learning_rate_goes_to_zero(model, forget, probe, method, beliefs):
    policy = Policy(model)
    batch, plan = update(model, forget, method, beliefs)
    gradient = step_gradient(policy, batch, plan)
    size = float(torch.sqrt(sum((part**2).sum() for part in gradient.values())))
    unit = {
        name: part / size for name, part in gradient.items()
    }  # methods differ in scale, and the first order does not
    predicted = predicted_change(policy, unit, probe).total_N.numpy()
    slopes = []
    for rate in RATES:
        slope, correlation = slope_and_correlation(
            rate * predicted, actual_change(policy, unit, rate, probe).numpy()
        )
        slopes.append(abs(slope - 1))
    assert slopes[-1] < 0.01 and correlation > 0.999
    assert slopes[-1] < slopes[0]


def test_prediction_is_that_of_the_dense_kernel(model, forget, probe):
    policy = Policy(model)
    batch, plan = update(model, forget, "wga", "token")
    parameters = [parameter for parameter in policy.parameters()]

    def logits(inputs):
        return torch.nn.functional.linear(policy.answer_hidden(inputs), policy.head.weight)

    def jacobian(inputs):
        rows = logits(inputs).flatten()
        each = torch.eye(len(rows), dtype=rows.dtype)
        grads = torch.autograd.grad(rows, parameters, each, is_grads_batched=True, allow_unused=True)
        return torch.cat([part.flatten(1) for part in grads if part is not None], 1)

    z_NV = logits(batch).detach().requires_grad_()
    p_N = z_NV.log_softmax(-1).gather(1, batch.targets_N.unsqueeze(1)).squeeze(1).exp().detach()
    q_NV = torch.zeros_like(z_NV).scatter_(1, (top := z_NV.topk(5)).indices, top.values.softmax(-1)).detach()
    mixture = 0.6 * torch.nn.functional.one_hot(batch.targets_N, z_NV.shape[1]) + 0.4 * q_NV
    loss = (p_N.unsqueeze(1) * mixture * z_NV.log_softmax(-1)).sum() / len(batch.targets_N)
    (residual_NV,) = torch.autograd.grad(loss, z_NV)
    kernel = jacobian(probe) @ jacobian(batch).T
    moved = -(kernel @ residual_NV.flatten()).view(len(probe.targets_N), -1)
    probabilities = logits(probe).detach().softmax(-1)
    slow = torch.stack(
        [row[target] - p @ row for row, target, p in zip(moved, probe.targets_N, probabilities, strict=True)]
    )

    change = predicted_change(policy, step_gradient(policy, batch, plan), probe)
    close = {"rtol": 1e-3, "atol": 1e-6}  # Llama normalises in float32
    torch.testing.assert_close(change.total_N, slow, **close)
    torch.testing.assert_close(
        change.logit_N, moved.gather(1, probe.targets_N.unsqueeze(1)).squeeze(1), **close
    )


def test_effects_of_targets_and_of_beliefs_add_up(model, forget, probe):
    policy = Policy(model)
    batch, plan = update(model, forget, "npo", "token+sequence", sequence_belief={"weight": 0.3})
    whole = predicted_change(policy, step_gradient(policy, batch, plan), probe)
    parts = [
        predicted_change(policy, step_gradient(policy, batch, replace(plan, terms=(term,))), probe)
        for term in plan.terms
    ]
    assert len(parts) == 2 and all(part.total_N.abs().max() > 1e-6 for part in parts)
    torch.testing.assert_close(whole.total_N, parts[0].total_N + parts[1].total_N, rtol=1e-4, atol=1e-6)


def test_token_belief_over_the_whole_vocabulary_is_a_shorter_step_of_the_base(model, forget, probe):
    policy = Policy(model)
    batch, plan = update(model, forget, "graddiff", "token", token_belief={"weight": 0.4, "top_k": 10**6})
    with_belief = predicted_change(policy, step_gradient(policy, batch, plan), probe).total_N
    base = predicted_change(
        policy, step_gradient(policy, batch, replace(plan, token_belief=None)), probe
    ).total_N
    torch.testing.assert_close(with_belief, 0.6 * base, rtol=1e-4, atol=1e-6)


def test_residuals_are_split_by_group_of_tokens(model, forget):
    policy = Policy(model)
    batch, plan = update(model, forget, "graddiff", "token")
    believed = plan.token_belief
    plain = residual_mass(policy, batch, replace(plan, token_belief=None), believed)
    shares = (plain.target, plain.belief, plain.rest)
    assert sum(shares) == pytest.approx(1) and min(shares) > 0
    # A row of the plain residual sums to zero: what pushes the target down pushes all others up.
    assert plain.target == pytest.approx(0.5)
    believing = residual_mass(policy, batch, plan, believed)
    assert believing.belief / believing.rest != pytest.approx(plain.belief / plain.rest)
    everything = residual_mass(policy, batch, plan, believed.model_copy(update={"top_k": 10**6}))
    assert everything.rest == pytest.approx(0, abs=1e-12)
    assert isinstance(everything, ResidualMass)


def test_policy_is_left_as_it_was(model, forget, probe):
    policy = Policy(model)
    before = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
    batch, plan = update(model, forget, "graddiff")
    gradient = step_gradient(policy, batch, plan)
    actual_change(policy, gradient, 0.1, probe)
    predicted_change(policy, gradient, probe)
    assert all(
        torch.equal(before[name], parameter) and parameter.grad is None
        for name, parameter in policy.named_parameters()
    )
