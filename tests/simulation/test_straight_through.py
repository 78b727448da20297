import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tersor.quantization.config import round_significant
from tersor.simulation.straight_through import clamped, in_units, rounded, significant, signs, straight_through
from tests.strategies import same_bits

numbers = torch.tensor([-3.7, -2.5, -1.0, -0.5, -0.0, 0.0, 0.3, 1.0, 1.5, 8e6, 1e30])


@pytest.mark.parametrize(
    ("function", "plain", "gradient"),
    [
        (rounded, torch.round, torch.ones_like),
        (lambda x: clamped(x, -2.0, 1.0), lambda x: x.clamp(-2, 1), torch.ones_like),
        (signs, lambda x: torch.where(x >= 0, 1.0, -1.0), lambda x: (x.abs() <= 1).to(x.dtype)),
    ],
)
def test_values_are_exact_and_gradients_those_of_the_smooth_function(function, plain, gradient):
    x = numbers.clone().requires_grad_()
    assert torch.equal(function(x), plain(numbers))
    weights = torch.arange(1.0, len(x) + 1)
    (found,) = torch.autograd.grad((function(x) * weights).sum(), x)
    assert torch.equal(found, weights * gradient(numbers))


@given(st.integers(0, 2**31), st.sampled_from([2, 8, 16, 24]), st.integers(-60, 60))
def test_significant_bits_are_those_of_the_fits(seed, bits, exponent):
    x = torch.randn(50, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    assert same_bits(significant(x, bits), torch.from_numpy(round_significant(x.numpy(), bits)))


def test_significant_bits_survive_compilers():
    x = torch.randn(50)
    compiled = torch.compile(lambda x: significant(x, 8), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), x.to(torch.bfloat16).to(torch.float32))


def test_relaxed_broadcasts():
    value, relaxed = torch.zeros(3, 4), torch.ones(3, 1, requires_grad=True)
    (straight_through(value, relaxed) * 2).sum().backward()
    assert relaxed.grad.flatten().tolist() == [8.0, 8.0, 8.0]


@pytest.mark.parametrize("unit", [0.01, -30.0])
def test_units(unit):
    """Plain gradient descent on the parameter is that on its product with the unit."""
    unit = torch.tensor([[unit]])
    parameter, plain = torch.ones(1, 1, requires_grad=True), unit.clone().requires_grad_()
    for value in (in_units(parameter, unit, 0.5), plain):
        (value * 3).sum().backward()
    with torch.no_grad():
        moved = (parameter - 0.1 * parameter.grad) * unit
    assert moved.item() == pytest.approx((plain - 0.1 * 0.5 * plain.grad).item())
