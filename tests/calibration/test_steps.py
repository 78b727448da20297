"""Steps of rows on their grid."""

import math

import pytest
import torch

from tersor.calibration.damping import Factor
from tersor.calibration.steps import loss_steps, snap
from tersor.errors import UsageError


def test_steps_follow_the_equation():
    factor = Factor(None, torch.tensor([[2.0, 8.0], [1.0, 1.0]], dtype=torch.float64))
    weights = torch.tensor([[1.0, 4.0], [0.0, 0.25]], dtype=torch.float64)
    got = loss_steps(weights, factor, 0.5)
    unit = math.sqrt(12 * 0.5 / math.log(2))
    expected = torch.tensor([[4 * unit, 2 * unit], [2 * unit, 2 * unit]], dtype=torch.float64)
    torch.testing.assert_close(got, expected)
    assert torch.equal(loss_steps(weights * 0, factor, 0.5), loss_steps(torch.ones_like(weights), factor, 0.5))
    for rate in (0, -1, math.inf, math.nan):
        with pytest.raises(UsageError, match="rate"):
            loss_steps(weights, factor, rate)


def test_snapped_steps_are_near_and_on_the_grid():
    steps = torch.rand(3, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64).exp() * 1e-3
    got = snap(steps)
    assert got.multipliers.dtype == torch.int8
    assert float(torch.tensor(got.base).bfloat16()) == got.base
    ratio = (got.values().double() / steps).log2().abs()
    assert float(ratio.max()) <= 1 / 16 + 1e-6
    base = torch.tensor(got.base, dtype=torch.float64)
    exact = base * torch.exp2(got.multipliers.double() / 8)
    torch.testing.assert_close(got.values().double(), exact, rtol=2e-7, atol=0)


def test_far_rows():
    steps = torch.tensor([[1e-30, 1.0, 1e30]])
    assert snap(steps).multipliers.tolist() == [[-127, 0, 127]]
    assert snap(torch.tensor([[1.0, 4.0]])).multipliers.tolist() == [[-8, 8]]
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(UsageError, match="positive"):
            snap(torch.tensor([[1.0, bad]]))
