"""Products of codes against a twin that multiplies whole numbers, one by one, in 64 bits."""

import itertools

import pytest
import torch

from tersor.integers import arithmetic
from tersor.integers.arithmetic import Epilogue, Weight, Window
from tersor.integers.weights import pair_excess
from tersor.simulation.affine import Affine

ONE = Affine(1.0, 7, 0, 255)


def twin(codes, zero, weights, window):
    """sum (q - zero) c of every output, int64 (N, O, *out), padding as zeros of the centred codes."""
    groups, spatial = window.groups, len(window.stride)
    centred = codes.long() - zero
    sides = [side for pair in reversed(list(zip(window.before, window.after, strict=True))) for side in pair]
    centred = torch.nn.functional.pad(centred, sides)
    kernel = weights.shape[2:]
    sizes = [
        (centred.shape[2 + i] - window.dilation[i] * (kernel[i] - 1) - 1) // window.stride[i] + 1
        for i in range(spatial)
    ]
    result = torch.zeros(len(codes), len(weights), *sizes, dtype=torch.int64)
    rows, inputs = len(weights) // groups, weights.shape[1]
    for o, place in itertools.product(range(len(weights)), itertools.product(*map(range, sizes))):
        group = o // rows
        cut = centred[:, group * inputs : (group + 1) * inputs]
        for i, at in enumerate(place):
            start = at * window.stride[i]
            stop = start + window.dilation[i] * (kernel[i] - 1) + 1
            cut = cut.narrow(2 + i, start, stop - start)
            cut = cut.index_select(2 + i, torch.arange(0, stop - start, window.dilation[i]))
        result[(slice(None), o, *place)] = (cut * weights[o].long()).flatten(1).sum(1)
    return result


def limited(*shape):
    """Random codes of which no pair overflows."""
    codes = torch.randint(-127, 128, shape, dtype=torch.int8)
    for i in range(0, shape[1] - 1, 2):
        codes[:, i + 1] = codes[:, i + 1].clamp(-1, 1) * (codes[:, i].abs() < 127)
    assert float(pair_excess(codes, 255).max()) <= 1
    return codes


def unit(codes, bias=None):
    return Weight(codes, torch.ones(len(codes)), torch.zeros(len(codes)) if bias is None else bias)


@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "window"),
    [
        (3, 4, (3, 3), Window((1, 1), (1, 1), (2, 2), (1, 1))),
        (6, 6, (3, 3), Window((0, 0), (1, 1), (2, 2), (1, 1), 6)),
        (8, 6, (1, 1), Window((0, 0), (0, 0), (1, 1), (1, 1))),
        (8, 4, (3, 2), Window((2, 0), (0, 1), (1, 2), (2, 1), 2)),
        (5, 3, (3,), Window((1,), (1,), (1,), (1,))),
        (2, 2, (2, 2, 2), Window((0, 0, 0), (0, 0, 0), (1, 1, 1), (1, 1, 1))),
    ],
)
def test_convolutions_are_exact(channels, outputs, kernel, window):
    torch.manual_seed(0)
    weights = limited(outputs, channels // window.groups, *kernel)
    codes = torch.randint(0, 256, (2, channels, *[6] * len(kernel)), dtype=torch.uint8)
    # The worst case of a row: all its products have one sign.
    corner = (0, slice(weights.shape[1]), *(slice(k) for k in kernel))
    codes[corner] = (weights[0] > 0).to(torch.uint8) * 255
    expected = twin(codes, 7, weights, window)
    weight = unit(weights)
    for packed in (arithmetic.pack(weight, window), None):
        y = arithmetic.convolution(codes, ONE, weight, packed, window, Epilogue())
        assert y.dtype == torch.float32 and torch.equal(y.long(), expected)


@pytest.mark.parametrize("shape", [(7,), (1, 7), (3, 7), (2, 3, 7), (0, 7)])
def test_linear_is_exact(shape):
    weights = limited(5, 7)
    codes = torch.randint(0, 256, shape, dtype=torch.uint8)
    expected = ((codes.long() - 7)[..., None, :] * weights.long()).sum(-1)
    weight = unit(weights)
    for packed in (arithmetic.pack(weight, None), None):
        assert torch.equal(arithmetic.linear(codes, ONE, weight, packed, Epilogue()).long(), expected)


@pytest.mark.parametrize("limits", [None, (0.0, float("inf")), (0.0, 6.0), (-1.0, 1.0)])
@pytest.mark.parametrize("grid", [None, Affine(0.05, 0, 0, 255), Affine(0.5, 8, 1, 15)])
def test_epilogue(limits, grid):
    """Steps, bias, clamping and codes out: floats within rounding, codes within one where the float is on an edge."""
    torch.manual_seed(1)
    window = Window((1, 1), (1, 1), (1, 1), (1, 1))
    weight = Weight(limited(4, 6, 3, 3), torch.tensor([0.01, -0.02, 0.003, 1e-4]), torch.randn(4))
    codes = torch.randint(0, 256, (2, 6, 5, 5), dtype=torch.uint8)
    inputs, epilogue = Affine(0.03, 7, 0, 255), Epilogue(limits, grid)
    packed = arithmetic.pack(weight, window)
    y = arithmetic.convolution(codes, inputs, weight, packed, window, epilogue)
    steps = (weight.scale.double() * 0.03)[:, None, None]
    expected = twin(codes, 7, weight.codes, window) * steps + weight.bias.double()[:, None, None]
    if limits is not None:
        expected = expected.clamp(*limits)
    if grid is None:
        assert torch.allclose(y.double(), expected, rtol=1e-5, atol=1e-4)
        return
    exact = expected / grid.scale + grid.zero
    assert y.dtype == torch.uint8
    assert float((y.double() - exact.clamp(grid.low, grid.high)).abs().max()) <= 0.5 + 1e-3
