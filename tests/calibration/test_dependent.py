"""Trellis codes as an ordinary uniform tensor."""

import pytest
import torch
from torch import nn

from tersor.calibration import Factor, Trellis, collect, factorize, output_error, snap
from tersor.calibration.dependent import dependent_uniform
from tersor.coding import to_indices
from tersor.errors import UsageError
from tersor.octaves import steps_of_multipliers


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(17)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("layer", [nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(4, 6, 3)])
def test_a_uniform_tensor_whose_codes_are_paths(layer, masked):
    model, x = nn.Sequential(layer, nn.ReLU(), nn.Conv2d(6, 2, 1)), torch.randn(8, 4, 7, 7).cumsum(2).cumsum(3)
    statistics = collect(model, [x])["0.weight"]
    weight = layer.weight.detach()
    mask = torch.rand(weight.shape) < 0.6 if masked else None
    factor = factorize(statistics)
    width = statistics.layout.matrices(weight).std(2) * (1 + torch.rand(statistics.layout.shape(weight.shape)[:2])) / 4
    transposed = statistics.layout.transposed
    steps = snap(width.mean().expand_as(width) if transposed else width)
    got = dependent_uniform(weight, statistics, factor, steps, mask=mask)
    assert got.trellis == (1 if transposed else 8)
    kept = None if mask is None else mask.reshape(-1).numpy()
    to_indices(got.codes.reshape(-1).numpy(), weight[0].numel(), got.trellis, kept)
    assert torch.equal(got.scale, steps_of_multipliers(got.base, torch.zeros(1, 1) if transposed else got.multipliers))
    assert got.codes.abs().max() > 2
    assert -(1 << got.bits - 1) <= got.codes.min() and got.codes.max() < 1 << got.bits - 1
    by_hand = statistics.layout.weight(
        statistics.layout.matrices(got.codes.float()) * steps.values()[..., None], weight.shape
    )
    assert torch.equal(got.dequantize(), by_hand)
    if not masked:
        error = output_error(weight, got.dequantize(), statistics).sum()
        blind = dependent_uniform(weight, statistics, Factor(None, factor.scale), steps)
        assert error < 0.9 * output_error(weight, blind.dequantize(), statistics).sum()


def test_wide_codes_are_int16_and_a_zero_weight_has_one_bit():
    model = nn.Sequential(nn.Linear(8, 3))
    statistics = collect(model, [torch.randn(30, 8)])["0.weight"]
    factor = factorize(statistics)
    fine = dependent_uniform(model[0].weight, statistics, factor, snap(torch.full((1, 3), 1e-4)))
    assert fine.codes.dtype == torch.int16
    assert 8 < fine.bits <= 16
    nothing = dependent_uniform(torch.zeros(3, 8), statistics, factor, snap(torch.ones(1, 3)), Trellis(1, 1))
    assert (nothing.bits, nothing.codes.dtype) == (1, torch.int8)


def test_columns_cannot_have_steps_or_paths():
    model = nn.Sequential(nn.ConvTranspose1d(2, 3, 2))
    statistics = collect(model, [torch.randn(3, 2, 5)])["0.weight"]
    with pytest.raises(UsageError, match="exponent=0"):
        dependent_uniform(model[0].weight, statistics, factorize(statistics), snap(torch.tensor([[1.0, 2.0, 4.0]])))
    with pytest.raises(UsageError, match="states=1"):
        dependent_uniform(model[0].weight, statistics, factorize(statistics), snap(torch.ones(1, 3)), Trellis())
