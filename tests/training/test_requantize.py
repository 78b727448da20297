"""New codes on a given grid."""

import pytest
import torch
from torch import nn

from tersor.calibration import Trellis, collect, dependent_uniform, factorize, output_error, snap
from tersor.calibration.layout import Layout
from tersor.quantization import Quantize
from tersor.training.requantize import requantized, trellis_of


@pytest.fixture
def case():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(40, 6))
    statistics = collect(model, [torch.randn(200, 40).cumsum(1)])["0.weight"]
    return model[0].weight.detach(), statistics, snap(torch.full((1, 6), 0.05))


@pytest.mark.parametrize("states", [4, 8])
def test_the_trellis_is_seen_in_the_codes(case, states):
    weight, statistics, steps = case
    fitted = dependent_uniform(weight, statistics, factorize(statistics), steps, Trellis(states, 2))
    assert trellis_of(fitted, Layout()) == Trellis(states, 4)
    assert trellis_of(Quantize(bits=4).fit(weight), Layout()) is None


def test_a_weight_on_the_grid_keeps_its_codes_and_another_one_comes_near(case):
    weight, statistics, steps = case
    trellis = Trellis(8, 4)
    fitted = dependent_uniform(weight, statistics, factorize(statistics), steps, trellis)
    again = requantized(fitted.dequantize(), fitted, statistics, trellis)
    assert torch.equal(again.codes, fitted.codes)
    moved = weight + 0.2 * torch.randn(weight.shape)
    found = requantized(moved, fitted, statistics, trellis)
    assert torch.equal(found.scale, fitted.scale)
    error = output_error(moved, found.dequantize(), statistics).sum()
    assert error < 0.1 * output_error(moved, fitted.dequantize(), statistics).sum()
