import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor._native import core
from tersor.errors import UnsupportedTypeError, UsageError
from tersor.layers import matrix_shape
from tersor.matrices import NonFiniteError
from tersor.pruning import Prune, magnitude_mask
from tests.quantization.weights import draw_weight, kinds, seeds, shapes

densities = st.floats(0, 1, exclude_min=True)


def largest(row, count):
    """Mask of the `count` largest magnitudes of a row, by a stable sort."""
    keep = np.zeros(row.size, bool)
    keep[np.argsort(-np.abs(row), kind="stable")[:count]] = True
    return keep


@settings(max_examples=200, deadline=None)
@given(shapes, kinds, seeds, densities, st.sampled_from(["tensor", "channel"]), st.booleans())
def test_density_keeps_exactly_the_largest(shape, kind, seed, density, scope, ties):
    weight = draw_weight(shape, kind, seed)
    if ties:
        weight = weight.sign() * weight.abs().clamp(max=1e38).mul(2).round()
    mask = magnitude_mask(weight, density=density, scope=scope)
    assert mask.dtype == torch.bool and mask.shape == weight.shape
    matrix = (1, weight.numel()) if scope == "tensor" else matrix_shape(shape)
    for row, keep in zip(weight.reshape(matrix).numpy(), mask.reshape(matrix).numpy(), strict=True):
        assert np.array_equal(keep, largest(row, round(density * row.size)))


def test_neighbouring_magnitudes_are_told_apart():
    bits = np.random.default_rng(0).permutation(np.arange(0x3F800000, 0x3F800000 + 5000, dtype=np.uint32))
    row = bits.view(np.float32) * np.where(bits % 3 == 0, -1, 1).astype(np.float32)
    for count in (0, 1, 1023, 1024, 1025, 4999, 5000):
        keep = np.zeros((1, row.size), bool)
        core.keep_largest(row.reshape(1, -1), count, keep)
        assert np.array_equal(keep[0], largest(row, count))


def test_zeros_are_kept_only_to_fill_up():
    weight = torch.tensor([0.0, 3.0, 0.0, -1.0, 0.0])
    assert magnitude_mask(weight, density=0.4).tolist() == [False, True, False, True, False]
    assert magnitude_mask(weight, density=0.6).tolist() == [True, True, False, True, False]


@settings(deadline=None)
@given(shapes, kinds, seeds, st.floats(0, 4))
def test_threshold_keeps_what_is_above(shape, kind, seed, threshold):
    weight = draw_weight(shape, kind, seed)
    mask = magnitude_mask(weight, threshold=threshold)
    assert torch.equal(mask, weight.to(torch.float64).abs() > threshold)


def test_threshold_zero_prunes_the_zeros():
    weight = torch.tensor([[0.0, -0.0, 1e-45, -2.0]])
    assert magnitude_mask(weight, threshold=0).tolist() == [[False, False, True, True]]


def test_config_and_function_agree():
    weight = draw_weight((6, 7))
    assert torch.equal(Prune(density=0.3).mask(weight), magnitude_mask(weight, density=0.3))
    assert torch.equal(Prune(threshold=0.5).mask(weight), magnitude_mask(weight, threshold=0.5))
    channel = Prune(density=0.3, scope="channel").mask(weight)
    assert channel.sum(1).tolist() == [2] * 6


def test_errors():
    weight = draw_weight((2, 3))
    with pytest.raises(UsageError, match="exactly one of density"):
        magnitude_mask(weight)
    with pytest.raises(UsageError, match="density"):
        magnitude_mask(weight, density=1.5)
    with pytest.raises(UnsupportedTypeError):
        magnitude_mask(weight.to(torch.int32), density=0.5)
    weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteError):
        magnitude_mask(weight, density=0.5)
    with pytest.raises(ValueError):
        core.keep_largest(np.zeros((1, 3), np.float32), 4, np.zeros((1, 3), bool))
