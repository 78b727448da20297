import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor._native import core
from tersor.layers import matrix_shape
from tersor.quantization import Quantize
from tersor.quantization.config import round_significant
from tersor.quantization.uniform import encode, fit_steps
from tests.quantization.weights import KINDS, draw_weight, masked_weights, squared_error
from tests.strategies import same_bits
from tests.twins.fit_uniform import codes_of, fit_group

WIDTHS = list(range(1, 17))
granularities = st.sampled_from(
    [{}, {"granularity": "tensor"}, *({"granularity": "group", "group_size": n} for n in (1, 4, 40))]
)


def groups_of(tensor, matrix):
    """(row, group, slice of the row) of every group of a matrix, a whole tensor seen as one row."""
    size = tensor.group_size or max(matrix.shape[1], 1)
    for row in range(matrix.shape[0]):
        for group, start in enumerate(range(0, matrix.shape[1], size)):
            yield row, group, slice(start, start + size)


def as_rows(tensor, values):
    """`values` as the matrix whose rows and columns the steps of `tensor` belong to."""
    shape = (1, -1) if tensor.group_size == 0 else matrix_shape(tensor.shape)
    return values.reshape(shape)


def check_against_twin(weight, mask, config):
    tensor = config.fit(weight, mask)
    values = as_rows(tensor, weight).numpy()
    kept = np.ones_like(values, bool) if mask is None else as_rows(tensor, mask).numpy()
    codes = as_rows(tensor, tensor.codes).numpy()
    kind = "symmetric" if config.symmetric else "affine"
    for row, group, part in groups_of(tensor, values):
        chosen = kept[row, part]
        group_values = values[row, part][chosen]
        scale, zero = fit_group(group_values, config.bits, kind, 8 if config.bits <= 8 else 16)
        assert tensor.scale[row, group] == scale
        if tensor.zero is not None:
            assert tensor.zero[row, group] == zero
        assert np.array_equal(codes[row, part][chosen], codes_of(group_values, scale, zero, config.bits))
        assert (codes[row, part][~chosen] == 0).all()


@settings(max_examples=60, deadline=None)
@given(masked_weights(), st.integers(1, 16), st.booleans(), granularities)
def test_fit_equals_its_twin(given_weight, bits, symmetric, granularity):
    check_against_twin(*given_weight, Quantize(bits, symmetric, **granularity))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [1, 3, 4, 8, 9, 16])
def test_long_rows_equal_their_twin(isa, bits, symmetric):
    weight = draw_weight((2, 9001), "heavy")  # more than two of the kernel's blocks, and a tail
    check_against_twin(weight, None, Quantize(bits, symmetric))


@pytest.mark.parametrize("kind", KINDS)
def test_every_instruction_set_gives_the_same_bits(kind):
    weight = draw_weight((3, 4103), kind)
    before = core.active_isa()
    results = []
    try:
        for name in ("scalar", before):
            core.force_isa(name)
            results.append([Quantize(bits, symmetric).fit(weight) for bits in WIDTHS for symmetric in (True, False)])
    finally:
        core.force_isa(before)
    for a, b in zip(*results, strict=True):
        assert same_bits(a.codes, b.codes) and same_bits(a.scale, b.scale)
        assert (a.zero is None and b.zero is None) or same_bits(a.zero, b.zero)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_errors_stay_in_range(kind, bits, symmetric):
    weight = draw_weight((4, 50), kind)
    tensor = Quantize(bits, symmetric).fit(weight)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    codes = tensor.codes.to(torch.int32)
    assert tensor.codes.dtype == (torch.int8 if bits <= 8 else torch.int16)
    assert low <= int(codes.min()) and int(codes.max()) <= high
    # Where the code is not at the end of its range, the weight is within half a step: no weight is misplaced.
    inside = ((codes > low) & (codes < high)).numpy()
    zero = np.zeros((4, 1)) if tensor.zero is None else tensor.zero.numpy()
    step = tensor.scale.numpy().astype(np.float64)
    error = np.abs(weight.numpy() - step * (codes.numpy() - zero))
    # The quotient weight / step is rounded to float32 before it is rounded to an integer.
    slack = 2.0**-24 * np.abs(weight.numpy().astype(np.float64)) + np.abs(step) * 2.0**-23
    assert (error <= np.abs(step) / 2 + slack)[inside].all()


@pytest.mark.parametrize("granularity", [{}, {"granularity": "tensor"}, {"granularity": "group", "group_size": 9}])
@pytest.mark.parametrize("kind", ["normal", "heavy", "shifted", "sparse", "small", "huge"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12])
def test_never_worse_than_the_largest_magnitude_step(bits, kind, granularity):
    weight = draw_weight((6, 60), kind)
    tensor = Quantize(bits, **granularity).fit(weight)
    values = as_rows(tensor, weight).numpy()
    steps = np.ones_like(tensor.scale.numpy())
    for row, group, part in groups_of(tensor, values):
        largest = values[row, part][np.argmax(np.abs(values[row, part]))]
        # The step that just reaches the largest weight, rounded upwards as steps are stored.
        exact = np.float64(largest) / -(2 ** (bits - 1))
        mantissa, exponent = np.frexp(exact)
        precision = 8 if bits <= 8 else 16
        stored = np.sign(exact) * np.ldexp(np.ceil(np.ldexp(abs(mantissa), precision)), exponent - precision)
        steps[row, group] = stored if stored else 1.0
    usual = encode(weight, None, bits, steps, None, tensor.group_size)
    assert squared_error(weight, tensor) <= squared_error(weight, usual) * (1 + 1e-5)


def brute_force_error(row, bits, symmetric):
    """Least squared error of one row over 2000 steps, not rounded, and every sensible range of levels."""
    row = row.astype(np.float64)
    levels = 2**bits
    spread = row.max() - row.min()
    top = np.abs(row).max() / max(levels // 2 - 1, 1) if symmetric else spread / (levels - 1)
    best = np.inf
    for step in top * np.linspace(0.02, 1.2, 2000):
        if symmetric:
            lows = {-levels // 2, 1 - levels // 2}
        else:
            ends = round(row.min() / step), round(row.max() / step) - levels + 1
            lows = {round(low) for low in np.linspace(*ends, 9)}
        for low in lows:
            error = row - step * np.clip(np.rint(row / step), low, low + levels - 1)
            best = min(best, float(error @ error))
    return best


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("kind", ["normal", "heavy", "shifted"])
@pytest.mark.parametrize(("bits", "excess"), [(2, 1.02), (4, 1.005), (6, 1.02), (8, 1.02)])
def test_close_to_brute_force(bits, excess, kind, symmetric):
    weight = draw_weight((1, 700), kind)
    error = squared_error(weight, Quantize(bits, symmetric).fit(weight))
    if kind == "shifted":  # far from zero the phase of the levels turns quickly with the step, which is rounded
        excess = 1.06
    assert error <= excess * brute_force_error(weight[0].numpy(), bits, symmetric)


def test_the_longer_tail_gets_the_extra_level():
    tail = torch.cat([torch.linspace(-0.5, 0.5, 50), torch.full((20,), 1.0)]).reshape(1, -1)
    positive, negative = Quantize(bits=2).fit(tail), Quantize(bits=2).fit(-tail)
    assert float(positive.scale) < 0 < float(negative.scale)
    assert torch.equal(positive.codes, negative.codes)


@pytest.mark.parametrize(
    ("shape", "granularity", "group_size", "expected"),
    [
        ((5, 2, 3, 3), {}, 18, (5, 1)),
        ((5, 2, 3, 3), {"granularity": "tensor"}, 0, (1, 1)),
        ((5, 2, 3, 3), {"granularity": "group", "group_size": 4}, 4, (5, 5)),
        ((5, 2, 3, 3), {"granularity": "group", "group_size": 100}, 18, (5, 1)),
        ((7,), {}, 7, (1, 1)),
        ((), {}, 1, (1, 1)),
        ((0, 4), {}, 4, (0, 1)),
        ((0, 4), {"granularity": "tensor"}, 0, (1, 1)),
        ((4, 0), {}, 0, (1, 1)),
    ],
)
@pytest.mark.parametrize("symmetric", [True, False])
def test_shape_of_the_steps(shape, granularity, group_size, expected, symmetric):
    tensor = Quantize(symmetric=symmetric, **granularity).fit(draw_weight(shape))
    assert tensor.group_size == group_size
    assert tensor.scale.shape == expected and tensor.scale.dtype == torch.float32
    assert (tensor.zero is None) if symmetric else (tensor.zero.shape == expected and tensor.zero.dtype == torch.int32)


@pytest.mark.parametrize(("bits", "precision"), [(1, 8), (4, 8), (8, 8), (9, 16), (16, 16)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_steps_have_few_significant_bits(bits, precision, symmetric):
    scale = Quantize(bits, symmetric).fit(draw_weight((40, 60), "heavy")).scale.numpy()
    assert np.array_equal(round_significant(scale, precision), scale)


@pytest.mark.parametrize("granularity", [{}, {"granularity": "tensor"}, {"granularity": "group", "group_size": 32}])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8, 12])
def test_weights_on_a_grid_are_met(bits, symmetric, granularity):
    generator = torch.Generator().manual_seed(bits)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    q = torch.randn(6, 128, generator=generator).mul(2.0 ** (bits - 3)).round().clamp(low, high)
    q[:, ::16], q[:, 1::16] = low, high  # the whole range is used
    steps = 0.1234567 if granularity else torch.rand(6, 1, generator=generator) + 0.01
    weight = (q + (0 if symmetric else 3)) * steps
    tensor = Quantize(bits, symmetric, **granularity).fit(weight)
    assert torch.allclose(tensor.dequantize(), weight, rtol=3e-7, atol=0)


def test_zero_rows_get_the_step_one():
    weight = draw_weight((3, 8))
    weight[1] = 0
    for symmetric in (True, False):
        tensor = Quantize(4, symmetric).fit(weight)
        assert float(tensor.scale[1, 0]) == 1.0
        assert (tensor.dequantize()[1] == 0).all()


def test_constant_rows_are_met_by_an_affine_grid():
    weight = torch.tensor([[0.1] * 9, [-1234.5] * 9, [1e-30] * 9])
    tensor = Quantize(bits=8, symmetric=False).fit(weight)
    assert torch.allclose(tensor.dequantize(), weight, rtol=1e-6, atol=0)


def test_more_bits_never_hurt():
    weight = draw_weight((3, 300))
    for symmetric in (True, False):
        errors = [squared_error(weight, Quantize(bits, symmetric).fit(weight)) for bits in WIDTHS]
        assert (np.diff(errors) < 0).all()


def test_native_functions_check_their_buffers():
    values = np.zeros((2, 3), np.float32)
    scale, zero = np.ones((2, 1), np.float32), np.zeros((2, 1), np.int32)
    codes = np.zeros((2, 3), np.int8)
    kind = core.GridKind.symmetric
    for arguments in [
        (values, None, 0, 8, kind, 8, scale, zero),
        (values, np.ones((3, 2), bool), 3, 8, kind, 8, scale, zero),
        (values, None, 3, 17, kind, 8, scale, zero),
        (values, None, 3, 8, kind, 0, scale, zero),
        (values, None, 2, 8, kind, 8, scale, zero),
    ]:
        with pytest.raises(ValueError):
            core.fit_uniform(*arguments)
    for arguments in [
        (values, None, 3, 9, scale, None, codes),
        (values, None, 2, 8, scale, None, codes),
        (values, None, 3, 8, scale, np.zeros((1, 1), np.int32), codes),
        (values, None, 3, 8, scale, None, np.zeros((2, 2), np.int8)),
    ]:
        with pytest.raises(ValueError):
            core.uniform_codes(*arguments)


def test_fit_steps_of_a_tensor_without_weights():
    scale, zero = fit_steps(np.zeros((4, 0), np.float32), None, 8, core.GridKind.affine, 8, 0)
    assert scale.tolist() == [[1.0]] and zero.tolist() == [[0]]
