import numpy as np
import pytest
import torch
from hypothesis import given, settings

from tersor import tensors
from tersor.layers import matrix_shape
from tersor.tensors import Binary, Codebook, Dense, Ternary, Uniform
from tests.strategies import compressed_tensors, same_bits


def obvious(tensor):
    """The definition of each representation, weight by weight."""
    rows, length = matrix_shape(tensor.shape)
    values = torch.zeros(rows, length, dtype=torch.float64)
    for r in range(rows):
        for c in range(length):
            values[r, c] = obvious_weight(tensor, r, c, rows, length)
    return values.reshape(tensor.shape)


def obvious_weight(tensor, r, c, rows, length):
    def of_row(scale):
        return float(scale[r if scale.shape[0] > 1 else 0, 0])

    if isinstance(tensor, Uniform):
        group = c // tensor.group_size if tensor.group_size else 0
        row = r if tensor.group_size else 0
        q = float(tensor.codes.reshape(rows, length)[r, c])
        scale = float(tensor.scale[row, group])
        if tensor.offset is not None:
            product = float(np.float32(scale * (q + 2 ** (tensor.bits - 1))))
            return product + float(tensor.offset[row, group])
        zero = 0.0 if tensor.zero is None else float(tensor.zero[row, group])
        return (q - zero) * scale
    if isinstance(tensor, Codebook):
        run = -(-rows // tensor.codebook.shape[0])
        return float(tensor.codebook[r // run, int(tensor.codes.reshape(rows, length)[r, c])])
    if isinstance(tensor, Binary):
        return of_row(tensor.scale) * (1 if tensor.signs.reshape(rows, length)[r, c] else -1)
    assert isinstance(tensor, Ternary)
    return of_row(tensor.scale) * float(tensor.codes.reshape(rows, length)[r, c])


@settings(max_examples=150, deadline=None)
@given(compressed_tensors().filter(lambda tensor: not isinstance(tensor, Dense) and tensor.numel < 2000))
def test_dequantize_is_the_definition(tensor):
    values = tensor.dequantize()
    assert values.shape == tensor.shape and values.dtype == tensor.dtype and values.is_contiguous()
    # A product of float32 numbers has at most 48 bits: float64 holds it, and float32 rounds it once. A sum of two of
    # them may take more, but is rounded to float32 as if once: float64 has more than twice the bits.
    expected = obvious(tensor).to(torch.float32)
    limit = min(torch.finfo(tensor.dtype).max, torch.finfo(torch.float32).max)
    expected = expected.clamp(-limit, limit).to(tensor.dtype)
    if tensor.mask is not None:
        expected[~tensor.mask] = 0
    assert torch.equal(values, expected)


@settings(max_examples=100, deadline=None)
@given(compressed_tensors().filter(lambda tensor: isinstance(tensor, Dense) and tensor.values.dtype == tensor.dtype))
def test_exact_dense_keeps_every_bit_but_the_pruned(tensor):
    values = tensor.dequantize()
    expected = tensor.values.clone()
    if tensor.mask is not None and tensor.numel:
        raw = expected.reshape(-1).view(torch.uint8).view(tensor.numel, -1)
        raw[~tensor.mask.reshape(-1)] = 0
    assert same_bits(values, expected)


@pytest.mark.parametrize("block", [1, 3, 7, 64])
@settings(max_examples=60, deadline=None)
@given(compressed_tensors())
def test_blocks_do_not_show(block, tensor):
    whole = tensor.dequantize()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "_BLOCK", block)
        parts = tensor.dequantize()
    assert whole.dtype == parts.dtype and whole.shape == parts.shape
    if whole.is_complex():
        whole, parts = torch.view_as_real(whole), torch.view_as_real(parts)
    if whole.is_floating_point():  # a conversion may change the payload of a NaN, but not that it is one
        whole, parts = (values.to(torch.float64).nan_to_num(nan=-1e300) for values in (whole, parts))
    assert torch.equal(whole, parts)


def test_values_saturate_in_a_narrow_dtype():
    shape = torch.Size([2])
    codes = torch.tensor([-128, 127], dtype=torch.int8)
    for dtype in (torch.float16, torch.float8_e4m3fn, torch.float8_e5m2):
        step = torch.tensor([[torch.finfo(dtype).max / 100]])
        tensor = Uniform(shape, dtype, None, 8, codes, step, None, 2)
        largest = torch.finfo(dtype).max
        assert tensor.dequantize().to(torch.float32).tolist() == [-largest, largest]
    huge = Uniform(shape, torch.float32, None, 8, codes, torch.tensor([[1e37]]), None, 2)
    assert torch.isfinite(huge.dequantize()).all()


def test_offset_grids_count_from_the_bottom_and_round_twice():
    shape = torch.Size([1, 4])
    codes = torch.tensor([[-8, -2, 4, 7]], dtype=torch.int8)
    step, offset = torch.tensor([[0.1]]), torch.tensor([[-0.73]])
    values = Uniform(shape, torch.float32, None, 4, codes, step, None, 4, offset).dequantize()
    count = np.array([[0, 6, 12, 15]], np.float32)
    assert values.numpy().tobytes() == (np.float32(0.1) * count + np.float32(-0.73)).tobytes()
    fused = (np.float64(np.float32(0.1)) * count + np.float64(np.float32(-0.73))).astype(np.float32)
    assert values.numpy().tobytes() != fused.tobytes(), "the numbers do not tell one rounding from two"


def test_a_grid_has_a_zero_point_or_an_offset():
    codes, step = torch.zeros(2, dtype=torch.int8), torch.ones(1, 1)
    with pytest.raises(ValueError, match="not both"):
        Uniform(codes.shape, torch.float32, None, 4, codes, step, step.to(torch.int32), 2, step)


def test_a_mask_must_fit():
    shape = torch.Size([2, 3])
    for mask in (torch.ones(3, 2, dtype=torch.bool), torch.ones(2, 3)):
        with pytest.raises(ValueError, match="mask must be bool of shape"):
            Dense(shape, torch.float32, mask, torch.zeros(2, 3))
