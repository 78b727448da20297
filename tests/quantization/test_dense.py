import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tersor.quantization import Lossless
from tests.strategies import DTYPES, random_bits, same_bits, seeds, shapes


@given(shapes, st.sampled_from(DTYPES), seeds)
def test_every_dtype_is_exact(shape, dtype, seed):
    weight = random_bits(shape, dtype, seed)
    tensor = Lossless().fit(weight)
    assert tensor.values.dtype == dtype
    assert same_bits(tensor.dequantize(), weight)


@given(shapes, st.sampled_from(DTYPES), seeds)
def test_pruned_positions_are_zero_bytes_and_the_rest_exact(shape, dtype, seed):
    weight = random_bits(shape, dtype, seed)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    values = Lossless().fit(weight, mask).values
    size = dtype.itemsize
    got = values.reshape(-1).view(torch.uint8).reshape(weight.numel(), size)
    raw = weight.reshape(-1).view(torch.uint8).reshape(weight.numel(), size)
    assert (got[~mask.reshape(-1)] == 0).all()
    assert torch.equal(got[mask.reshape(-1)], raw[mask.reshape(-1)])


@pytest.mark.parametrize("mask", [None, torch.ones(2, 2, dtype=torch.bool)])
def test_the_values_are_a_copy(mask):
    weight = torch.ones(2, 2)
    tensor = Lossless().fit(weight, mask)
    weight.zero_()
    assert (tensor.values == 1).all()
