"""Gradients by equations 3 and 5 of Esser et al. 2020, weight by weight; what training is worth."""

import copy
import math

import pytest
import torch

from tersor.errors import UsageError
from tersor.quantization import Quantize
from tersor.simulation import Clock, LearnedSteps
from tersor.simulation.learned_steps import mean_steps
from tests.simulation.techniques import draw, draw_mask, regress


def twin(weight, stored, upstream, counts, symmetric):
    """Gradients for W (O, N), s and z (O, G), with the scale of section 2.2 on those of s and z."""
    low, high = -(1 << stored.bits - 1), (1 << stored.bits - 1) - 1
    rows, length = weight.shape
    by_weight, by_step, by_zero = (
        torch.zeros_like(weight),
        torch.zeros_like(stored.scale),
        torch.zeros_like(stored.scale),
    )
    for row in range(rows):
        for column in range(length):
            at = (0, 0) if stored.group_size == 0 else (row, column // stored.group_size)
            scale = stored.scale[at].item()
            zero = 0 if symmetric else stored.zero[at].item()
            gain = 1 / math.sqrt(max(counts[at].item(), 1) * (high if symmetric else 2**stored.bits - 1))
            level, g = weight[row, column].item() / scale + zero, upstream[row, column].item()
            code = min(max(round(level), low), high)
            if low <= level <= high:
                by_weight[row, column] = g
                by_step[at] += g * (code - level) * gain
            else:
                by_step[at] += g * (code - zero) * gain
                by_zero[at] += -g * scale * gain
    return by_weight, by_step, by_zero


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    "sharing", [{"granularity": "tensor"}, {"granularity": "channel"}, {"granularity": "group", "group_size": 4}]
)
def test_gradients(symmetric, sharing):
    weight, mask = draw((4, 10)), draw_mask((4, 10))
    config = Quantize(3, symmetric, **sharing)
    simulation = LearnedSteps().simulate(weight, config, mask)
    stored = simulation.compressed(weight, mask)
    weight = (weight * 2).requires_grad_()  # some are outside of the range now
    upstream = draw((4, 10), 5, spread=1.0) * mask
    (simulation(weight) * upstream).sum().backward()
    kept = torch.zeros_like(stored.scale)
    for row in range(4):
        for column in range(10):
            at = (0, 0) if stored.group_size == 0 else (row, column // stored.group_size)
            kept[at] += mask[row, column]
    by_weight, by_step, by_zero = twin(weight.detach(), stored, upstream, kept, symmetric)
    torch.testing.assert_close(weight.grad, by_weight)
    torch.testing.assert_close(simulation.factor.grad * simulation.unit, by_step, rtol=1e-4, atol=1e-6)
    if not symmetric:
        span = 2**3 - 1
        found = simulation.shift.grad * span * stored.scale**2
        torch.testing.assert_close(found, by_zero, rtol=1e-4, atol=1e-7)
        assert by_zero.abs().max() > 0


def test_first_steps():
    weight, mask = draw((3, 8)), draw_mask((3, 8))
    found = LearnedSteps(init="mean").simulate(weight, Quantize(4), mask).steps()[0]
    for row in range(3):
        wanted = 2 * weight[row][mask[row]].abs().mean() / math.sqrt(7)
        assert found[row].item() == pytest.approx(wanted.item(), rel=2**-8)
    fitted = Quantize(4).fit(weight, mask)
    assert torch.equal(LearnedSteps().simulate(weight, Quantize(4), mask).steps()[0], fitted.scale)
    assert mean_steps(torch.zeros(2, 3), None, 0, 4).item() == 1


def test_steps_stay_away_from_zero():
    simulation = LearnedSteps().simulate(draw((3, 8)), Quantize(4), None)
    first = simulation.steps()[0].clone()
    with torch.no_grad():
        simulation.factor.fill_(-3.0)
        simulation.after_step(draw((3, 8)), None, Clock(1))
    assert torch.equal(simulation.steps()[0].sign(), first.sign())


def test_one_rate_for_weights_of_all_magnitudes():
    """A step moves by the same share of itself, however large the weights are."""
    shares = []
    for size in (1e-3, 1.0, 1e3):
        weight = draw((3, 8)) * size
        simulation = LearnedSteps().simulate(weight, Quantize(4), None)
        before = copy.deepcopy(simulation.factor.detach())
        optimizer = torch.optim.Adam(simulation.parameters(), lr=0.01)
        (simulation(weight) - weight * 1.5).square().sum().backward()
        optimizer.step()
        shares.append(((simulation.factor - before) / before).detach())
    torch.testing.assert_close(shares[0], shares[1], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(shares[2], shares[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("symmetric", [True, False])
def test_trained_steps_reach_a_lower_loss_than_fixed_ones(symmetric):
    config, weight = Quantize(2, symmetric, granularity="tensor"), draw((6, 8))
    fixed, trained = (regress(LearnedSteps().simulate(weight, config, None), weight, own=own) for own in (0.0, 0.02))
    assert trained < 0.7 * fixed


def test_errors():
    with pytest.raises(UsageError, match="learned_steps: it trains 2 to 16 bits a weight, got bits=1"):
        LearnedSteps().simulate(draw((3, 4)), Quantize(1), None)
    with pytest.raises(UsageError, match="init='mean' is for symmetric grids"):
        LearnedSteps(init="mean").simulate(draw((3, 4)), Quantize(4, symmetric=False), None)
    with pytest.raises(UsageError, match="init must be one of fit, mean"):
        LearnedSteps(init="max")
