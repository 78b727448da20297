"""Weights whose products no kernel overflows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tersor.calibration import collect
from tersor.errors import UsageError
from tersor.integers.weights import check, integer_weight, pair_excess
from tersor.quantization import Quantize


@given(st.integers(1, 6), st.integers(1, 9), st.integers(2, 8), st.integers(0, 2**31))
def test_no_pair_overflows_and_the_error_stays_small(outputs, inputs, bits, seed):
    weight = torch.randn(outputs, inputs, 2, generator=torch.Generator().manual_seed(seed))
    found = integer_weight(weight, Quantize(bits=bits), 255)
    pairs = found.codes[:, : inputs // 2 * 2].long().unflatten(1, (-1, 2)) * 255
    assert int(pairs.clamp(min=0).sum(2).max() if pairs.numel() else 0) <= 32767
    assert int(pairs.clamp(max=0).sum(2).min() if pairs.numel() else 0) >= -32768
    best = Quantize(bits=bits).fit(weight).dequantize()
    error = (found.dequantize() - weight).square().sum()
    # Twice the step at most: four times the error, and that of an 8-bit grid where few weights lie on their own.
    coarse = weight.numel() * float(weight.abs().max() / 60) ** 2
    assert float(error) <= 4.5 * float((best - weight).square().sum()) + coarse


def test_steps_stay_where_nothing_overflows():
    weight = torch.randn(4, 1, 3, 3)
    assert torch.equal(integer_weight(weight, Quantize(), 255).dequantize(), Quantize().fit(weight).dequantize())
    wide = torch.randn(4, 8)
    assert torch.equal(integer_weight(wide, Quantize(), 127).dequantize(), Quantize().fit(wide).dequantize())


def test_excess():
    codes = torch.tensor([[100, 100, -128, 0], [127, -127, 1, 1], [64, 64, -64, -64]], dtype=torch.int8)
    assert pair_excess(codes, 255).tolist() == pytest.approx([51000 / 32767, 127 * 255 / 32767, 128 * 255 / 32767])


def test_error_feedback_lowers_the_outputs_error():
    torch.manual_seed(0)
    layer = torch.nn.Linear(12, 6)
    x = torch.randn(200, 3) @ torch.randn(3, 12) + 0.1 * torch.randn(200, 12)
    statistics = collect(layer, [x])["weight"]
    errors = []
    for own in (None, statistics):
        found = integer_weight(layer.weight, Quantize(bits=4), 255, own)
        errors.append(float((x @ (found.dequantize() - layer.weight.detach()).T).square().sum()))
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize(
    "config", [Quantize(bits=9), Quantize(symmetric=False), Quantize(granularity="group", group_size=4)]
)
def test_grids_that_are_refused(config):
    with pytest.raises(UsageError, match="symmetric grids"):
        check(config)
