"""Rate-aware training: what is stored is what was computed with, and training goes on from its state."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import tersor
from tersor.container.writer import Entry
from tersor.errors import UsageError
from tersor.quantization import NonFiniteError, Quantize
from tersor.simulation.base import Clock
from tersor.simulation.rate import RateAware

FREE = Quantize(bits=8, granularity="tensor")


@pytest.fixture
def weight():
    return torch.randn(12, 20, generator=torch.Generator().manual_seed(0)) * 0.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bits", [2, 8, 12])
def test_compressed_is_exactly_what_the_network_computes_with(weight, dtype, bits):
    stored = weight.to(dtype)
    simulation = RateAware(start=0.3).simulate(stored, Quantize(bits=bits, granularity="tensor"), None)
    with torch.no_grad():
        simulation.log_step += 0.1234
    tensor = simulation.eval().compressed(stored, None)
    assert torch.equal(tensor.dequantize(), simulation(stored)) and tensor.dtype == dtype


def test_compressed_comes_back_from_a_file(weight):
    simulation = RateAware().simulate(weight, FREE, None)
    file = io.BytesIO()
    tersor.save(tersor.CompressedModel((Entry("w", simulation.compressed(weight, None)),)), file)
    file.seek(0)
    assert torch.equal(tersor.load(file)["w"], simulation(weight))


def test_pruned_weights_are_zeros_of_the_file_without_a_mask(weight):
    mask = torch.rand(12, 20, generator=torch.Generator().manual_seed(1)) < 0.5
    simulation = RateAware().simulate(weight, FREE, mask)
    tensor = simulation.compressed(weight, mask)
    assert tensor.mask is None and torch.equal(tensor.dequantize(), simulation(weight) * mask)


def test_first_step_is_the_root_mean_square_of_what_is_kept(weight):
    mask = torch.zeros(12, 20, dtype=torch.bool)
    mask[3] = True
    simulation = RateAware(start=0.5).simulate(weight, FREE, mask)
    assert math.isclose(float(simulation.step().detach()), 0.5 * float(weight[3].square().mean().sqrt()), rel_tol=2**-8)
    assert float(RateAware().simulate(torch.zeros(4), FREE, None).step().detach()) == 1.0


def test_gradient_passes_by_the_rounding_and_reaches_the_step(weight):
    simulation = RateAware().simulate(weight, Quantize(bits=3, granularity="tensor"), None)
    stored = weight.clone()
    stored[0, 0] = 100.0  # far beyond the range of codes
    stored.requires_grad_()
    output = torch.randn(12, 20, generator=torch.Generator().manual_seed(2))
    (simulation(stored) * output).sum().backward()
    u = stored.detach() / simulation.step().detach()
    codes = u.round().clamp(-4, 3)
    assert codes[0, 0] == 3 and torch.equal(stored.grad, output * ((u - codes).abs() <= 0.5))
    by_step = output * torch.where((u - codes).abs() <= 0.5, codes - u, codes)
    assert torch.isclose(simulation.log_step.grad, by_step.sum() * simulation.log_step.detach().exp(), rtol=1e-4)


def test_multiplier_rises_with_the_clock(weight):
    simulation = RateAware(multiplier=2e-3, ramp=0.5).simulate(weight, FREE, None)
    assert simulation.penalty(weight, Clock(0, 100)) is None
    bits = simulation.bits(weight)
    for step, part in ((25, 0.5), (50, 1.0), (100, 1.0)):
        assert torch.isclose(simulation.penalty(weight, Clock(step, 100)), part * 2e-3 * bits)
    assert torch.isclose(simulation.penalty(weight, Clock(3)), 2e-3 * bits)  # of unknown length: in full
    simulation.pressure.fill_(3.0)
    assert torch.isclose(simulation.penalty(weight, Clock(100, 100)), 6e-3 * bits)


def test_contexts_are_fitted_every_so_many_steps(weight):
    simulation = RateAware(refit=10).simulate(weight, FREE, None)
    before = simulation.slope.clone()
    sparser = weight * (torch.rand(12, 20, generator=torch.Generator().manual_seed(3)) < 0.1)
    simulation.after_step(sparser, None, Clock(9, 100))
    assert torch.equal(simulation.slope, before)
    simulation.after_step(sparser, None, Clock(10, 100))
    assert simulation.slope.mean() > before.mean()


def test_zeros_stay_zero_in_the_end(weight):
    simulation = RateAware(settle=0.25).simulate(weight, FREE, None)
    stored, codes = weight.clone(), simulation.codes(weight)
    simulation.after_step(stored, None, Clock(75, 100))
    assert torch.equal(stored, weight)
    simulation.after_step(stored, None, Clock(76, 100))
    assert torch.equal(stored, weight * (codes != 0)) and not stored[codes == 0].any()
    assert torch.equal(simulation(stored), simulation(weight))


def test_training_removes_bits(weight):
    model, bits = trained(weight, steps=150, multiplier=3e-3)
    plain, other = trained(weight, steps=150, multiplier=0.0)
    assert bits < 0.6 * other
    assert int((model.weight == 0).sum()) > int((plain.weight == 0).sum())


def trained(weight, steps, multiplier, state=None, begin=0):
    """A linear layer that learns a map, from `begin` to `steps`; (model, bits). `state`: of model and optimizer."""
    model = nn.Linear(20, 12, bias=False)
    with torch.no_grad():
        model.weight.copy_(weight if state is None else 2 * weight)
    simulation = RateAware(multiplier=multiplier, refit=20).simulate(model.weight, FREE, None)
    parametrize.register_parametrization(model, "weight", simulation)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    if state is not None:
        model.load_state_dict(state[0])
        optimizer.load_state_dict(state[1])
    x = torch.randn(64, 20, generator=torch.Generator().manual_seed(5))
    target = x @ weight.T
    stored = model.parametrizations.weight.original
    for step in range(begin, steps):
        loss = (model(x) - target).square().mean()
        penalty = simulation.penalty(stored, Clock(step, 150))
        optimizer.zero_grad()
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
        simulation.after_step(stored, None, Clock(step + 1, 150))
    model.optimizer = optimizer
    return model, float(simulation.bits(stored).detach())


def test_resumed_training_ends_at_the_same_bits(weight):
    whole, bits = trained(weight, 90, 3e-3)
    half, _ = trained(weight, 47, 3e-3)
    state = copy.deepcopy((half.state_dict(), half.optimizer.state_dict()))
    resumed, again = trained(weight, 90, 3e-3, state, begin=47)
    assert bits == again
    for one, other in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("representation", [Quantize(), Quantize(symmetric=False, granularity="tensor")])
def test_other_representations_are_refused(weight, representation):
    with pytest.raises(UsageError, match="granularity='tensor'"):
        RateAware().simulate(weight, representation, None)


@pytest.mark.parametrize(
    ("option", "value"),
    [("multiplier", -1.0), ("ramp", 1.5), ("settle", -0.1), ("refit", 0), ("start", 0.0), ("rate", math.nan)],
)
def test_bad_options(option, value):
    with pytest.raises(UsageError, match=option):
        RateAware(**{option: value})


def test_numbers_that_are_not_finite_are_refused(weight):
    weight = weight.clone()
    weight[0, 0] = math.nan
    with pytest.raises(NonFiniteError, match="NaN"):
        RateAware().simulate(weight, FREE, None)


def test_options_travel_as_a_dictionary():
    config = RateAware(multiplier=1e-4, ramp=0.1, refit=7, start=0.5, begin=3)
    assert RateAware.from_dict(config.to_dict()) == config


def test_simulations_are_copied_and_pickled(weight):
    simulation = RateAware().simulate(weight, FREE, None)
    assert torch.equal(copy.deepcopy(simulation)(weight), simulation(weight))
