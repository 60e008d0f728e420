import math

import pytest
import torch

from trainables.engine.vocabulary_moments import logp_moments, target_moments
from trainables.losses.fused_head import target_logp


def slow_moments(row):
    """Mean and standard deviation of log p under p, one token at a time."""
    total = math.fsum(math.exp(value) for value in row)
    logs = [value - math.log(total) for value in row]
    mean = math.fsum(math.exp(value) * value for value in logs)
    return mean, math.sqrt(math.fsum(math.exp(value) * (value - mean) ** 2 for value in logs))


def inputs(rows=7, *, hidden=5, vocabulary=11, dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    hidden_NH = torch.randn(rows, hidden, generator=generator, dtype=torch.float64) * scale
    weight_VH, bias_V = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((vocabulary, hidden), (vocabulary,))
    )
    targets_N = torch.randint(0, vocabulary, (rows,), generator=generator)
    return hidden_NH.to(dtype), weight_VH.to(dtype), bias_V.to(dtype), targets_N


@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("bias", [False, True])
def test_moments_match_sums_over_the_vocabulary_one_token_at_a_time(scale, bias):
    hidden_NH, weight_VH, bias_V, targets_N = inputs(scale=scale)
    bias_V = bias_V if bias else None
    _, _, mean_N, deviation_N = target_moments(hidden_NH, weight_VH, bias_V, targets_N, 3)
    for row, hidden_H in enumerate(hidden_NH):
        expected = slow_moments(torch.nn.functional.linear(hidden_H, weight_VH, bias_V).tolist())
        assert (float(mean_N[row]), float(deviation_N[row])) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_log_probability_and_best_token_are_those_of_an_ordinary_pass_bit_for_bit(dtype):
    ordinary = target_logp(*inputs(dtype=dtype), 3)
    with_moments = target_moments(*inputs(dtype=dtype), 3)
    assert all(torch.equal(one, other) for one, other in zip(ordinary, with_moments[:2], strict=True))
    assert with_moments[2].dtype == with_moments[3].dtype == torch.promote_types(dtype, torch.float32)


def test_moments_do_not_depend_on_how_the_rows_are_cut():
    whole = target_moments(*inputs(), 100)
    for chunk in (1, 2, 7):
        for one, other in zip(target_moments(*inputs(), chunk), whole, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_flat_row_has_no_deviation_at_any_size_of_the_vocabulary():
    logp_NV = torch.zeros(2, 50_000).log_softmax(-1)
    mean_N, deviation_N = logp_moments(logp_NV)
    torch.testing.assert_close(mean_N, torch.full((2,), -math.log(50_000)))
    assert float(deviation_N.max()) < 1e-4  # a difference of squares gives hundredths in float32


def test_certain_row_has_moments_of_zero():
    logp_NV = torch.tensor([[0.0, -200.0, -200.0]])
    assert [moment.tolist() for moment in logp_moments(logp_NV)] == [[0.0], [0.0]]


def test_no_rows_give_no_moments():
    hidden_NH, weight_VH, bias_V, targets_N = inputs()
    moments = target_moments(hidden_NH[:0], weight_VH, bias_V, targets_N[:0], 4)
    assert [moment.shape for moment in moments] == [(0,)] * 4
