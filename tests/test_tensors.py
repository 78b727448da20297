from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings

from tersor import tensors
from tersor.centring import centred, zero_levels
from tersor.layers import matrix_shape
from tersor.tensors import Binary, Codebook, Dense, Ternary, Uniform
from tests.strategies import compressed_tensors, patched_tensors, plain_tensors, same_bits, signed_zeros


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
        if tensor.signed_zero and q < 0:
            q = -(-q - 1)  # -0.0 for -1
        scale = float(tensor.scale[row, group])
        if tensor.offset is not None:
            zero = int(zero_levels(tensor.scale[row, group], tensor.offset[row, group], tensor.bits))
            level = (int(q) + zero) % 2**tensor.bits
            product = float(np.float32(scale * level))
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


def is_exact_codebook(tensor):
    """Of the tensor's own dtype, which may hold anything."""
    return isinstance(tensor, Codebook) and tensor.codebook.dtype == tensor.dtype != torch.float32


@settings(max_examples=150, deadline=None)
@given(plain_tensors().filter(lambda tensor: not isinstance(tensor, Dense)))
def test_dequantize_is_the_definition(tensor):
    assume(not is_exact_codebook(tensor))
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
@given(plain_tensors().filter(lambda tensor: isinstance(tensor, Dense) and tensor.values.dtype == tensor.dtype))
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
    codes = centred(codes, step, offset, 4, 4)
    values = Uniform(shape, torch.float32, None, 4, codes, step, None, 4, offset).dequantize()
    count = np.array([[0, 6, 12, 15]], np.float32)
    assert values.numpy().tobytes() == (np.float32(0.1) * count + np.float32(-0.73)).tobytes()
    fused = (np.float64(np.float32(0.1)) * count + np.float64(np.float32(-0.73))).astype(np.float32)
    assert values.numpy().tobytes() != fused.tobytes(), "the numbers do not tell one rounding from two"


def test_a_grid_has_a_zero_point_or_an_offset():
    codes, step = torch.zeros(2, dtype=torch.int8), torch.ones(1, 1)
    with pytest.raises(ValueError, match="not two of them"):
        Uniform(codes.shape, torch.float32, None, 4, codes, step, step.to(torch.int32), 2, step)


def test_a_trellis_or_a_base_is_of_a_symmetric_grid():
    codes, step, base = torch.zeros(2, 4, dtype=torch.int8), torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bfloat16)
    grid = (codes.shape, torch.float32, None, 4, codes, step, None, 0)
    multipliers = torch.zeros(2, 1, dtype=torch.int8)
    for wrong in ({"trellis": 2}, {"multipliers": multipliers}, {"base": base, "multipliers": multipliers}):
        with pytest.raises(ValueError, match=r"trellis|multipliers"):
            Uniform(*grid, **wrong)
    for wrong in (
        {"signed_zero": True},
        {"offset": step},
        {"high": base},
        {"group_size": 2, "scale": torch.ones(2, 2)},
    ):
        for what in ({"trellis": 8}, {"base": base}):
            with pytest.raises(ValueError, match="symmetric"):
                replace(Uniform(*grid), **what, **wrong)
    assert torch.equal(Uniform(*grid, trellis=8, base=base).dequantize(), Uniform(*grid).dequantize())


def test_a_mask_must_fit():
    shape = torch.Size([2, 3])
    for mask in (torch.ones(3, 2, dtype=torch.bool), torch.ones(2, 3)):
        with pytest.raises(ValueError, match="mask must be bool of shape"):
            Dense(shape, torch.float32, mask, torch.zeros(2, 3))


@settings(max_examples=100, deadline=None)
@given(patched_tensors())
def test_patched_is_its_base_but_for_its_patches(tensor):
    values, base = tensor.dequantize(), tensor.base.dequantize()
    assert values.shape == tensor.shape and values.dtype == tensor.dtype
    for place, (run, exact) in enumerate(
        zip(values.reshape(-1, tensor.run), base.reshape(-1, tensor.run), strict=True)
    ):
        patch = (tensor.places == place).nonzero()
        expected = tensor.values[int(patch)] if patch.numel() else exact
        assert same_bits(run, expected)
    assert same_bits(tensor.base.dequantize(), base), "the base was modified"


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.float64, torch.int64, torch.uint16, torch.float8_e5m2, torch.bool]
)
def test_a_codebook_of_the_own_dtype_is_exact(dtype):
    book = torch.tensor([[0, 1, 127]]).to(dtype)
    if dtype == torch.float16:
        book = torch.tensor([[-32768, 31745, 31744]], dtype=torch.int16).view(dtype)  # -0, a signalling NaN, Inf
    codes = torch.tensor([[2, 0, 1], [1, 1, 0]], dtype=torch.uint8)
    values = Codebook(codes.shape, dtype, None, 2, codes, book).dequantize()
    expected = book.view(torch.uint8).reshape(3, -1)[codes.long()].reshape(2, -1).view(dtype)
    assert same_bits(values, expected)
    pruned = Codebook(codes.shape, dtype, codes != 2, 2, codes, book).dequantize()
    assert bool((pruned.view(torch.uint8).reshape(6, -1)[0] == 0).all()) and same_bits(pruned[1], expected[1])


@pytest.mark.parametrize("values", [torch.int8, torch.int32, torch.int64])
def test_integers_stand_for_whole_floats(values):
    numbers = torch.tensor([[-3, 0, 100]], dtype=values)
    mask = torch.tensor([[True, True, False]])
    assert same_bits(
        Dense(numbers.shape, torch.float32, None, numbers).dequantize(), torch.tensor([[-3.0, 0.0, 100.0]])
    )
    assert same_bits(
        Dense(numbers.shape, torch.float64, mask, numbers).dequantize(), torch.tensor([[-3.0, 0, 0]]).double()
    )


def test_signed_zeros_have_codes():
    codes = torch.tensor([[0, -1, 1, -2, 127, -128]], dtype=torch.int8)
    values = Uniform(
        codes.shape, torch.float32, None, 8, codes, torch.tensor([[0.5]]), None, 6, None, True
    ).dequantize()
    assert same_bits(values, torch.tensor([[0.0, -0.0, 0.5, -0.5, 63.5, -63.5]]))


@settings(max_examples=100, deadline=None)
@given(signed_zeros())
def test_signed_zeros_are_its_base_but_for_signs(tensor):
    values, base = tensor.dequantize(), tensor.base.dequantize()
    assert same_bits(values[tensor.mask], base[tensor.mask])
    assert not values[~tensor.mask].to(torch.float64).any()
    negative = tensor.negative.reshape(tensor.shape)[~tensor.mask]
    assert torch.equal(values[~tensor.mask].to(torch.float64).signbit(), negative)
