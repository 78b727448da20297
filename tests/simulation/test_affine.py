"""Grids of activations: nearest codes, zero exact, ends covered."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tersor.errors import CalibrationError, UsageError
from tersor.simulation.affine import Affine, affine

ENDS = st.floats(-1e6, 1e6, allow_nan=False)


@given(ENDS, ENDS, st.integers(2, 8), st.booleans())
def test_values_between_the_ends_are_half_a_step_off_at_most(a, b, bits, symmetric):
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    grid = affine(low, high, bits, symmetric)
    x = torch.linspace(low, high, 50)
    back = grid.dequantize(grid.quantize(x))
    # Zero is a code, so that the ends may move by half a step.
    assert float((back - x).abs().max()) <= grid.scale * 1.0001 + 1e-5 * max(-low, high)
    assert float(grid.dequantize(grid.quantize(torch.zeros(1)))) == 0.0
    assert grid.high < 1 << bits and (not symmetric or grid.zero == 1 << bits - 1)


def test_codes_are_the_nearest():
    grid = affine(-1.0, 3.0, 3)
    x = torch.linspace(-2, 5, 301)
    points = (torch.arange(grid.low, grid.high + 1) - grid.zero) * grid.scale
    nearest = (x[:, None] - points).abs().amin(1)
    assert torch.allclose((grid.dequantize(grid.quantize(x)) - x).abs(), nearest, atol=1e-5)


def test_memory_format_stays():
    x = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    assert affine(-1, 1, 8).quantize(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("numbers", [(0.0, 0, 0, 255), (1.0, 3, 4, 255), (1.0, 0, 0, 256), (float("nan"), 0, 0, 1)])
def test_impossible_grids(numbers):
    with pytest.raises(UsageError, match="grid of activations"):
        Affine(*numbers)


@pytest.mark.parametrize("ends", [(float("nan"), 1.0), (0.0, float("inf")), (float("-inf"), 0.0)])
@pytest.mark.parametrize("symmetric", [False, True])
def test_ends_that_are_no_numbers(ends, symmetric):
    with pytest.raises(CalibrationError, match="look for NaN or Inf"):
        affine(*ends, 8, symmetric)
