import math

import pytest
import torch
from torch import nn

from tersor.quantization import Binarize
from tersor.simulation import BinaryConnect, Clock
from tersor.simulation.binary_connect import glorot
from tests.simulation.techniques import draw


def simulate(weight, **options):
    return BinaryConnect(**options).simulate(weight, Binarize("tensor"), None)


@pytest.mark.parametrize(("shape", "fans"), [((4, 6), 10), ((4, 6, 3, 3), 90), ((6,), 7)])
def test_glorot(shape, fans):
    assert glorot(torch.zeros(shape)) == pytest.approx(math.sqrt(1.5 / fans), rel=2**-8)


@pytest.mark.parametrize("magnitude", ["glorot", "one"])
def test_values_and_gradients(magnitude):
    weight = torch.tensor([[0.0, -0.1, 2.0], [-0.0, 0.3, -9.0]]).requires_grad_()
    simulation = simulate(weight, magnitude=magnitude)
    bound = glorot(weight)
    high = bound if magnitude == "glorot" else 1.0
    found, upstream = simulation(weight), draw((2, 3), 1)
    assert torch.equal(found, high * torch.tensor([[1.0, -1.0, 1.0], [1.0, 1.0, -1.0]]))
    (found * upstream).sum().backward()
    torch.testing.assert_close(weight.grad, upstream * high / bound)


def test_what_is_stored_is_clipped():
    weight = torch.tensor([[0.1, -50.0], [3.0, -0.2]])
    simulation = simulate(weight)
    simulation.after_step(weight, None, Clock(1))
    bound = glorot(weight)
    assert torch.equal(weight, torch.tensor([[0.1, -bound], [bound, -0.2]]))


def test_stochastic_signs_have_the_probabilities_of_the_hard_sigmoid():
    shares = torch.tensor([-1.5, -1.0, -0.5, 0.0, 0.8, 1.0])
    weight = torch.zeros(6, 4000)
    simulation = simulate(weight, stochastic=True)
    weight += shares[:, None] * simulation.bound
    torch.manual_seed(0)
    positive = (simulation(weight) > 0).float().mean(1)
    torch.testing.assert_close(positive, torch.tensor([0.0, 0.0, 0.25, 0.5, 0.9, 1.0]), atol=0.03, rtol=0)
    assert torch.equal(simulation.eval()(weight) > 0, weight >= 0)


def test_random_numbers_come_from_the_global_generator():
    weight = draw((20, 20), spread=0.05)
    simulation = simulate(weight, stochastic=True)
    torch.manual_seed(4)
    state = torch.get_rng_state()
    first, second = simulation(weight), simulation(weight)
    torch.set_rng_state(state)
    assert torch.equal(simulation(weight), first) and not torch.equal(first, second)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_rates_are_scaled_as_in_the_paper(optimizer):
    """Binary +-1 in [-1, 1] with the rate over C (Adam) or C^2 (SGD) takes the same steps, in units of C."""
    x, wanted = draw((8, 6), 1, spread=1.0), draw((8, 4), 2, spread=1.0)
    ours = nn.Parameter(draw((4, 6), spread=0.05))
    simulation = simulate(ours.detach(), magnitude="one")
    bound = simulation.bound
    paper = nn.Parameter(ours.detach() / bound)
    scale = bound if optimizer is torch.optim.Adam else bound**2
    optimizers = [optimizer([ours], lr=1e-3), optimizer([paper], lr=1e-3 / scale)]
    for _ in range(5):
        signed = torch.where(paper >= 0, 1.0, -1.0) + paper - paper.detach()
        for one, weight in zip(optimizers, (simulation(ours), signed), strict=True):
            one.zero_grad()
            (x @ weight.T - wanted).square().mean().backward()
            one.step()
        with torch.no_grad():
            simulation.after_step(ours, None, Clock(1))
            paper.clamp_(-1, 1)
    torch.testing.assert_close(ours / bound, paper, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stochastic", [False, True])
def test_signs_are_learned(stochastic):
    """A layer finds the signs that gave its targets."""
    signs = draw((6, 8), 2).sign()
    x = draw((60, 8), 1, spread=1.0)
    weight = nn.Parameter(draw((6, 8), spread=0.05))
    simulation = simulate(weight.detach(), stochastic=stochastic, magnitude="one")
    optimizer = torch.optim.Adam([weight], lr=0.02)
    torch.manual_seed(0)
    for _ in range(80):
        optimizer.zero_grad()
        (x @ simulation(weight).T - x @ signs.T).square().mean().backward()
        optimizer.step()
        with torch.no_grad():
            simulation.after_step(weight, None, Clock(1))
    assert (simulation.eval()(weight) == signs).float().mean() > 0.95
