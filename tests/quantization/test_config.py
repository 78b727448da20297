"""What every representation owes: shapes, dtypes, masks, refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor.errors import MismatchError, UnsupportedTypeError
from tersor.quantization import Binarize, Cast, FixedPoint, Lossless, NonFiniteError, Quantize, Ternarize
from tersor.quantization.config import round_means, round_significant
from tersor.tensors import Binary, Codebook, Dense, Ternary, Uniform
from tests.quantization.weights import draw_weight, masked_weights
from tests.strategies import same_bits

LOSSY = [
    Cast("float16"),
    Cast("bfloat16"),
    Cast("float8_e4m3fn"),
    Cast("float8_e5m2"),
    Quantize(),
    Quantize(bits=3, symmetric=False),
    Quantize(bits=11, granularity="tensor"),
    Quantize(bits=4, symmetric=False, granularity="group", group_size=5),
    FixedPoint(),
    FixedPoint(bits=4, granularity="channel"),
    FixedPoint(fraction=5),
    Binarize(),
    Binarize("tensor"),
    Ternarize(),
    Ternarize("tensor"),
    Ternarize(rule="twn"),
]
ALL = [Lossless(), *LOSSY]


def fields(tensor):
    names = {
        Dense: ["values"],
        Uniform: ["codes", "scale", "zero"],
        Codebook: ["codes", "codebook"],
        Binary: ["signs", "scale"],
        Ternary: ["codes", "scale"],
    }
    return [getattr(tensor, name) for name in names[type(tensor)]]


def identical(a, b):
    pairs = zip(fields(a), fields(b), strict=True)
    return all(
        (x is None and y is None) or (x.shape == y.shape and (x.numel() == 0 or same_bits(x, y))) for x, y in pairs
    )


@pytest.mark.parametrize("config", ALL, ids=repr)
@settings(max_examples=40, deadline=None)
@given(masked_weights())
def test_shape_dtype_mask_and_finiteness(config, given_weight):
    weight, mask = given_weight
    before = weight.clone()
    tensor = config.fit(weight, mask)
    values = tensor.dequantize()
    assert torch.equal(weight, before)
    assert values.shape == weight.shape and values.dtype == weight.dtype
    assert torch.isfinite(values).all()
    assert (tensor.mask is None) == (mask is None)
    if mask is not None:
        assert tensor.mask is not mask and torch.equal(tensor.mask, mask)
        assert (values[~mask] == 0).all()


@pytest.mark.parametrize("config", ALL, ids=repr)
@settings(max_examples=25, deadline=None)
@given(masked_weights(), st.floats(-(2.0**99), 2.0**99, width=32))
def test_pruned_weights_have_no_influence(config, given_weight, other):
    weight, mask = given_weight
    if mask is None:
        return
    changed = torch.where(mask, weight, torch.tensor(other, dtype=torch.float32))
    assert identical(config.fit(weight, mask), config.fit(changed, mask))


@pytest.mark.parametrize("config", ALL, ids=repr)
def test_fits_are_deterministic_and_know_no_layout(config):
    weight = draw_weight((6, 40))
    first = config.fit(weight)
    assert identical(first, config.fit(weight))
    assert identical(first, config.fit(weight.t().contiguous().t()))
    assert identical(first, config.fit(weight.clone().requires_grad_()))


@pytest.mark.parametrize("config", LOSSY, ids=repr)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_not_finite_is_refused(config, bad):
    weight = draw_weight((4, 9))
    weight[1, 2] = weight[3, 3] = bad
    with pytest.raises(NonFiniteError, match=r"2 of 36 values are NaN or Inf.*lossless"):
        config.fit(weight)


@pytest.mark.parametrize("config", LOSSY, ids=repr)
@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool, torch.complex64])
def test_not_float_is_refused(config, dtype):
    with pytest.raises(UnsupportedTypeError, match=str(dtype)):
        config.fit(torch.ones(2, 3).to(dtype))


@pytest.mark.parametrize("config", ALL, ids=repr)
def test_a_mask_that_does_not_fit_is_refused(config):
    weight = draw_weight((2, 3))
    for mask in (torch.ones(3, 2, dtype=torch.bool), torch.ones(2, 3)):
        with pytest.raises(MismatchError, match=r"shape \(2, 3\)"):
            config.fit(weight, mask)


@pytest.mark.parametrize("config", LOSSY, ids=repr)
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_other_floats_fit_as_their_float32_values(config, dtype):
    weight = draw_weight((5, 12)).to(dtype)
    tensor = config.fit(weight)
    assert tensor.dequantize().dtype == dtype
    assert identical(tensor, config.fit(weight.to(torch.float32)))


@pytest.mark.parametrize("config", LOSSY, ids=repr)
def test_float64_beyond_float32_is_refused(config):
    weight = torch.tensor([[1.0, 1e39], [0.0, 2.0]], dtype=torch.float64)
    with pytest.raises(NonFiniteError, match="1 of 4 values of a float64 weight are beyond"):
        config.fit(weight)


@given(st.integers(2, 24), st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_round_significant_is_the_nearest(bits, numbers):
    values = np.array(numbers, np.float32)
    rounded = round_significant(values, bits)
    assert np.isfinite(rounded).all()
    for value, result in zip(values.tolist(), rounded.tolist(), strict=True):
        if abs(value) < 2.0**-126:
            assert result == value
            continue
        mantissa, exponent = np.frexp(value)
        nearest = float(np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits))
        largest = float(np.ldexp(1 - 2.0**-bits, 128))
        assert result == max(-largest, min(largest, nearest))


def test_eight_significant_bits_are_bfloat16():
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16).to(torch.float32).numpy()
    assert np.array_equal(round_significant(values, 8), expected)


@pytest.mark.parametrize(("error", "precision"), [(1e3, 8), (1e-2, 16), (0.0, 24)])
def test_means_are_rounded_as_far_as_the_error_allows(error, precision):
    means = np.array([0.1, 0.30000001, 1.7], np.float32)
    rounded = round_means(means, np.array([10.0, 20.0, 10.0]), error)
    assert np.array_equal(rounded, round_significant(means, precision))
    added = float(np.sum([10.0, 20.0, 10.0] * (rounded.astype(np.float64) - means) ** 2))
    assert added <= 0.001 * error


def test_rounded_means_stay_distinct():
    means = np.array([1.0, 1.001, 2.0], np.float32)
    assert np.unique(round_means(means, np.ones(3), 1e9)).size == 3
