import math

import pytest
import torch

from tersor.quantization import FixedPoint
from tersor.simulation import PowerSteps
from tests.simulation.techniques import draw, regress


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_steps_are_powers_of_two_and_start_at_the_fit(granularity):
    weight = draw((5, 7))
    simulation = PowerSteps().simulate(weight, FixedPoint(5, granularity=granularity), None)
    assert torch.equal(simulation.steps()[0], FixedPoint(5, granularity=granularity).fit(weight).scale)
    with torch.no_grad():
        simulation.exponent.add_(-0.7)
    mantissa, _ = torch.frexp(simulation.steps()[0])
    assert torch.equal(mantissa, torch.full_like(mantissa, 0.5))


def test_a_given_fraction_stays():
    weight = draw((5, 7))
    simulation = PowerSteps().simulate(weight, FixedPoint(5, fraction=4), None)
    assert not any(parameter.requires_grad for parameter in simulation.parameters())
    assert simulation.compressed(weight, None).scale.item() == 2**-4


def test_gradient_of_the_exponent():
    """Plain gradient descent moves the step by the share of itself that LSQ moves it."""
    weight, upstream = draw((3, 8)) * 2, draw((3, 8), 4, spread=1.0)
    simulation = PowerSteps().simulate(draw((3, 8)), FixedPoint(3), None)
    (simulation(weight) * upstream).sum().backward()
    step = simulation.steps()[0].item()
    by_step = 0.0
    for w, g in zip(weight.flatten().tolist(), upstream.flatten().tolist(), strict=True):
        level = w / step
        code = min(max(round(level), -4), 3)
        by_step += g * (code - level if -4 <= level <= 3 else code)
    gain = 1 / math.sqrt(24 * 3)
    assert simulation.exponent.grad.item() == pytest.approx(gain * by_step / (step * math.log(2)), rel=1e-4)


def test_exponents_stay_in_the_range_of_the_format():
    simulation = PowerSteps().simulate(draw((3, 8)), FixedPoint(3), None)
    with torch.no_grad():
        simulation.exponent.fill_(-500.0)
    assert simulation.steps()[0].item() == 2.0**-126


def test_trained_exponents_find_the_range_again():
    """Weights that outgrow the first range: a fixed one clips them."""
    weight = draw((6, 8), spread=0.01)
    fixed, trained = (regress(PowerSteps().simulate(weight, FixedPoint(4), None), weight, own=own) for own in (0, 0.1))
    assert trained < 0.5 * fixed
