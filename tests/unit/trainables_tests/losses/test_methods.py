from inspect import Parameter, signature
from typing import get_args

import pytest
import torch

from search_spaces.catalogue.method_catalogue import METHODS as CATALOGUE
from search_spaces.settings.forget_settings import (
    ForgetSettings,
    Method,
    NpoSettings,
    SatImpSettings,
    WgaSettings,
    WtnpoSettings,
)
from tests.support.training.dense_losses import (
    gradient,
    pair_loss,
    published_loss,
    random_rows,
    row_loss,
    token_nll,
)
from tests.support.training.method_settings import LOGIT, OTHERS, PREFERENCE, TARGET, short_name
from trainables.losses.logit_methods import LogitRows
from trainables.losses.methods import METHODS, PreferenceMethod, TargetMethod
from trainables.losses.residuals import TargetStats, sums_of_sequences, target_residual, token_logp

LENGTHS = [4, 1, 6, 2]
RESPONSES = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))
REFERENCE = -torch.rand(sum(LENGTHS), generator=torch.Generator().manual_seed(7), dtype=torch.float64) * 4
REFERENCE[-1] = -40.0


def stats_of(logits, targets, responses):
    logp = token_logp(logits, targets)
    sums, known = (sums_of_sequences(values, responses, len(LENGTHS)) for values in (logp, REFERENCE))
    return TargetStats(logp, responses, torch.tensor(LENGTHS), REFERENCE, sums, known)


@pytest.mark.parametrize("settings", TARGET, ids=short_name)
def test_method_has_the_published_loss_and_its_gradient_as_residual(settings):
    logits, targets, responses = random_rows(LENGTHS, 11)
    weight, loss = METHODS[settings.method].weigh(stats_of(logits, targets, responses), settings)
    expected, (expected_gradient,) = gradient(
        lambda z: published_loss(token_nll(z, targets), responses, REFERENCE, settings), logits
    )
    torch.testing.assert_close(loss.sum(), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        target_residual(logits, targets, weight), expected_gradient, rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize("settings", TARGET, ids=short_name)
def test_method_stays_finite_when_a_response_is_certain_or_impossible(settings):
    logp = torch.tensor([0.0, -300.0])
    known = logp.flip(0).double()
    stats = TargetStats(logp, torch.arange(2), torch.ones(2, dtype=torch.long), known, logp.double(), known)
    weight, loss = METHODS[settings.method].weigh(stats, settings)
    assert torch.isfinite(weight).all() and torch.isfinite(loss).all()
    assert (weight >= 0).all()


@pytest.mark.parametrize("name", ["npo", "tnpo"])
def test_weight_is_one_at_the_reference(name):
    same = torch.tensor([-2.0])
    stats = TargetStats(same, torch.tensor([0]), torch.tensor([1]), same, same, same)
    weight, _ = METHODS[name].weigh(stats, ForgetSettings(method=name))
    assert weight.tolist() == [1.0]


NEAR_ASCENT = [
    ForgetSettings(method="npo", npo=NpoSettings(beta=1e-6)),
    ForgetSettings(method="wga", wga=WgaSettings(alpha=0)),
    ForgetSettings(method="wtnpo", wtnpo=WtnpoSettings(alpha=0, beta=1e-6)),
    ForgetSettings(method="satimp", satimp=SatImpSettings(beta1=0, beta2=0)),
]


@pytest.mark.parametrize("settings", NEAR_ASCENT, ids=short_name)
def test_method_tends_to_gradient_ascent_at_the_end_of_its_range(settings):
    weight, _ = METHODS[settings.method].weigh(stats_of(*random_rows(LENGTHS, 11)), settings)
    torch.testing.assert_close(weight, torch.ones_like(weight), rtol=0, atol=1e-4)


def test_weighted_tokenwise_npo_without_weights_has_the_gradient_of_tokenwise_npo():
    stats = stats_of(*random_rows(LENGTHS, 11))
    plain, _ = METHODS["tnpo"].weigh(
        stats, ForgetSettings.model_validate({"method": "tnpo", "tnpo": {"beta": 0.7}})
    )
    weighted, _ = METHODS["wtnpo"].weigh(
        stats, ForgetSettings.model_validate({"method": "wtnpo", "wtnpo": {"beta": 0.7, "alpha": 0}})
    )
    torch.testing.assert_close(weighted, plain)


def test_method_keeps_the_precision_of_its_rows_when_sums_are_float64():
    known = torch.tensor([-1.5, -1.5], dtype=torch.float64)
    whole = torch.tensor([-3.0], dtype=torch.float64)
    stats = TargetStats(
        torch.tensor([-1.0, -2.0]), torch.tensor([0, 0]), torch.tensor([2]), known, whole, whole
    )
    for name, method in METHODS.items():
        if isinstance(method, TargetMethod):
            weight, loss = method.weigh(stats, ForgetSettings(method=name))
            assert weight.dtype == loss.dtype == torch.float32, name


@pytest.mark.parametrize("settings", PREFERENCE, ids=short_name)
def test_slopes_are_the_derivatives_of_the_published_loss_of_a_pair(settings):
    method = METHODS[settings.method]
    assert isinstance(method, PreferenceMethod)
    draw = torch.Generator().manual_seed(3)
    sides = [
        [-3 * torch.rand(length, generator=draw, dtype=torch.float64) for _ in range(2)] for length in (4, 2)
    ]

    def dense(y, good):
        return pair_loss((-y, -sides[0][1]), (-good, -sides[1][1]), settings)

    (y, known), (good, good_known) = sides
    expected, (y_gradient, good_gradient) = gradient(dense, y, good)
    if method.score == "log_ratio":
        scores, factors = (
            ((y - known).sum(), (good - good_known).sum()),
            (torch.ones_like(y), torch.ones_like(good)),
        )
    else:
        scores, factors = (y.exp().mean(), good.exp().mean()), (y.exp() / len(y), good.exp() / len(good))
    loss, slope, good_slope = method.slopes(scores[0].reshape(1), scores[1].reshape(1), settings)
    torch.testing.assert_close(loss.squeeze(), expected, check_dtype=False)
    torch.testing.assert_close(slope * factors[0], y_gradient)
    torch.testing.assert_close(good_slope * factors[1], good_gradient)
    assert slope >= 0 >= good_slope, "the response goes down, the preferred answer up"


def test_preference_of_equals_at_the_reference_weighs_as_gradient_ascent_does():
    zero = torch.zeros(1, dtype=torch.float64)
    _, slope, good_slope = METHODS["dpo"].slopes(zero, zero, ForgetSettings(method="dpo"))
    assert (slope.item(), good_slope.item()) == (1.0, -1.0)


@pytest.mark.parametrize("settings", LOGIT, ids=short_name)
def test_row_method_has_the_published_loss_and_its_gradient_as_residual(settings):
    logits, targets, responses = random_rows(LENGTHS, 11)
    known, _, _ = random_rows(LENGTHS, 11, seed=5)
    first = torch.tensor([True, *(responses[1:] != responses[:-1]).tolist()])
    loss, residual = METHODS[settings.method].residual(LogitRows(logits, targets, first, known), settings)
    expected, (expected_gradient,) = gradient(
        lambda z: row_loss(z, targets, responses, settings, known), logits
    )
    torch.testing.assert_close(loss.sum(), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(residual, expected_gradient, rtol=1e-10, atol=1e-12)


def test_distillation_leaves_the_reference_as_it_was():
    logits, targets, responses = random_rows(LENGTHS, 11)
    known = logits.clone()
    METHODS["undial"].residual(
        LogitRows(logits, targets, responses == 0, known), ForgetSettings(method="undial")
    )
    assert torch.equal(known, logits)


def test_methods_are_those_of_the_settings_and_of_the_catalogue():
    assert set(METHODS) == set(get_args(Method)) == set(CATALOGUE)
    for name, method in METHODS.items():
        assert method.name == name and method.info is CATALOGUE[name]


def test_catalogue_states_the_facts_that_the_kind_of_a_method_requires():
    for info in CATALOGUE.values():
        assert (info.kind == "preference") == (info.preferred is not None) == (info.score is not None)
        # A score of a response is a sum over all its tokens.
        assert info.needs_whole_responses or info.kind != "preference"
        assert not info.needs_reference_logits or info.kind == "logits"
        assert info.needs_reference or info.score != "log_ratio"


def test_hyperparameters_are_the_fields_of_the_settings():
    for name, method in METHODS.items():
        block = getattr(ForgetSettings(), name, None)
        keywords = [
            item
            for item in signature(method.formula).parameters.values()
            if item.kind is Parameter.KEYWORD_ONLY
        ]
        assert all(item.default is Parameter.empty for item in keywords), "defaults belong to the settings"
        assert {item.name for item in keywords} == (
            set(type(block).model_fields) if block is not None else set()
        )


def test_other_settings_differ_from_the_defaults():
    for name, blocks in OTHERS.items():
        assert all(
            ForgetSettings.model_validate({"method": name, name: block}) != ForgetSettings(method=name)
            for block in blocks
        )
