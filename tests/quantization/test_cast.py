import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor.quantization import Cast
from tersor.quantization.cast import CAST_DTYPES

EDGES = [65504.0, 65519.0, 65520.0, 1e38, -3.4028235e38, 448.0, 464.0, 465.0, 57344.0, 61440.0, 2.0**-25, -1e-45, 0.0]


def all_values(dtype):
    """Every finite value of a narrow dtype, ascending, in double."""
    size = torch.finfo(dtype).bits
    raw = torch.arange(2**size).to(torch.int32).to(torch.uint8 if size == 8 else torch.uint16)
    values = raw.view(dtype).to(torch.float64).numpy()
    return np.unique(values[np.isfinite(values)])


@pytest.mark.parametrize("name", CAST_DTYPES)
@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=20))
def test_values_are_the_nearest_and_saturate(name, numbers):
    weight = torch.tensor([*numbers, *EDGES], dtype=torch.float32)
    tensor = Cast(name).fit(weight)
    assert tensor.values.dtype == CAST_DTYPES[name]
    grid = all_values(CAST_DTYPES[name])
    for value, got in zip(weight.tolist(), tensor.dequantize().tolist(), strict=True):
        at = int(np.searchsorted(grid, value))
        around = grid[max(at - 1, 0) : at + 1]
        assert got in grid
        assert abs(got - value) == np.abs(around - value).min()


@pytest.mark.parametrize("name", CAST_DTYPES)
def test_ties_go_to_even(name):
    grid = all_values(CAST_DTYPES[name])
    start = int(np.searchsorted(grid, 1.0))
    middles = (grid[start : start + 4] + grid[start + 1 : start + 5]) / 2
    rounded = Cast(name).fit(torch.tensor(middles, dtype=torch.float32)).dequantize().tolist()
    assert rounded == [grid[start], grid[start + 2], grid[start + 2], grid[start + 4]]
