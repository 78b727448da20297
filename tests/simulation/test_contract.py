"""What every technique keeps: the file holds what the network computed with, and training goes on from a state."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize

from tersor.errors import MismatchError, TersorError, UnsupportedTypeError, UsageError
from tersor.matrices import NonFiniteError
from tersor.quantization import Binarize, Lossless, Palettize, Quantize
from tersor.simulation import DEFAULTS, TRAININGS, Clock
from tests.simulation.techniques import PAIRS, SHAPES, draw, draw_mask, named
from tests.strategies import same_bits

pairs = pytest.mark.parametrize("pair", PAIRS, ids=named)


def moved(simulation, weight, steps=3, mask=None):
    """The weight after some steps of Adam on a loss of no meaning; the simulation's parameters move, too."""
    stored = nn.Parameter(weight.clone())
    target = draw(weight.shape, 7, weight.dtype)
    optimizer = torch.optim.Adam([stored, *simulation.parameters()], lr=0.02)
    simulation.train()
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        now = simulation(stored) if mask is None else simulation(stored) * mask
        loss = ((now - target) ** 2).sum()
        penalty = simulation.penalty(stored, Clock(step, 2 * steps))
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
        with torch.no_grad():
            simulation.after_step(stored, mask, Clock(step, 2 * steps))
    return stored.detach()


@given(
    pair=st.sampled_from(PAIRS),
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    masked=st.booleans(),
    steps=st.sampled_from([0, 3]),
    seed=st.integers(0, 2**31),
)
def test_the_file_holds_what_evaluation_computes_with(pair, shape, dtype, masked, steps, seed):
    training, representation = pair
    weight, mask = draw(shape, seed, dtype), draw_mask(shape, seed) if masked else None
    simulation = training.simulate(weight, representation, mask)
    weight = moved(simulation, weight, steps, mask)
    found = simulation.eval()(weight)
    stored = simulation.compressed(weight, mask)
    wanted = found if mask is None else torch.where(mask, found, torch.zeros((), dtype=dtype))
    assert found.dtype == dtype and found.shape == weight.shape
    assert same_bits(stored.dequantize() + 0, wanted.detach() + 0)
    if stored.mask is not None:  # codes of zero do without
        assert torch.equal(stored.mask, mask)


@pairs
def test_a_network_computes_with_it(pair):
    """As a parametrization: optimizers move what is stored, and every number of the layer comes from the file."""
    training, representation = pair
    layer, x = nn.Conv2d(3, 6, 2), torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        layer.weight.copy_(draw(layer.weight.shape))
    parameter = layer.weight
    simulation = training.simulate(layer.weight, representation, None)
    parametrize.register_parametrization(layer, "weight", simulation)
    assert layer.parametrizations.weight.original is parameter
    layer(x).square().sum().backward()
    assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0
    assert all(torch.isfinite(p.grad).all() for p in simulation.parameters() if p.requires_grad)
    layer.eval()
    assert torch.equal(layer.weight, simulation.compressed(parameter, None).dequantize())


@pairs
def test_training_goes_on_from_a_state_and_from_a_copy(pair):
    training, representation = pair
    weight = draw((5, 7))
    simulation = training.simulate(weight, representation, None)
    weight = moved(simulation, weight)
    other = training.simulate(draw((5, 7), 9), representation, draw_mask((5, 7)))
    other.load_state_dict(simulation.state_dict())
    results = []
    for one in (other, copy.deepcopy(simulation), simulation):
        torch.manual_seed(3)
        after = moved(one, weight)
        results.append((after, one.eval()(after).detach(), one.state_dict()))
    for after, found, state in results[:2]:
        assert torch.equal(after, results[2][0]) and torch.equal(found, results[2][1])
        assert state.keys() == results[2][2].keys()
        assert all(torch.equal(state[name], results[2][2][name]) for name in state)


@pairs
def test_simulating_changes_nothing(pair):
    training, representation = pair
    weight, mask = draw((5, 7)), draw_mask((5, 7))
    before, kept = weight.clone(), mask.clone()
    simulation = training.simulate(weight, representation, mask)
    moved(simulation, weight, 2, mask)
    assert torch.equal(weight, before) and torch.equal(mask, kept)


@pairs
def test_pruned_weights_have_no_influence(pair):
    """Whatever is stored where nothing is kept, the others and the simulation's parameters learn the same."""
    training, representation = pair
    weight, mask = draw((5, 7)), draw_mask((5, 7))
    found = []
    for pruned in (0.0, 0.09):
        stored = torch.where(mask, weight, torch.full_like(weight, pruned))
        simulation = training.simulate(stored, representation, mask)
        torch.manual_seed(0)
        after = moved(simulation, stored, 2, mask)
        found.append(simulation.compressed(after, mask).dequantize())
    assert torch.equal(*found)


@pairs
def test_compiled(pair):
    training, representation = pair
    weight = draw((5, 7)).requires_grad_()
    simulation = training.simulate(weight, representation, None).eval()
    torch._dynamo.reset()  # it stops compiling what was compiled for many settings
    compiled = torch.compile(simulation, backend="eager", fullgraph=True)
    assert torch.equal(compiled(weight), simulation(weight))


@pairs
def test_twice_differentiable(pair):
    training, representation = pair
    weight = draw((5, 7)).requires_grad_()
    simulation = training.simulate(weight, representation, None)
    loss = simulation(weight).pow(3).sum()
    (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
    gradient.square().sum().backward()
    assert torch.isfinite(weight.grad).all()


@pairs
def test_under_autocast(pair):
    """The layer multiplies in bfloat16; what the weight is does not change."""
    training, representation = pair
    layer = nn.Linear(7, 5)
    simulation = training.simulate(layer.weight, representation, None)
    parametrize.register_parametrization(layer, "weight", simulation)
    layer.eval()
    plain = layer.weight
    with torch.autocast("cpu", torch.bfloat16):
        result = layer(torch.randn(2, 7))
        assert torch.equal(layer.weight, plain)
    result.float().sum().backward()
    assert result.dtype == torch.bfloat16
    assert torch.isfinite(layer.parametrizations.weight.original.grad).all()


@pytest.mark.parametrize("name", TRAININGS)
def test_errors(name):
    training, representation = next(pair for pair in PAIRS if pair[0].name == name)
    with pytest.raises(UsageError, match=f"{name}: it trains the representation .*got 'lossless'"):
        training.simulate(draw((3, 4)), Lossless(), None)
    with pytest.raises(UsageError, match=r"shape \(0, 3\) is empty"):
        training.simulate(torch.zeros(0, 3), representation, None)
    with pytest.raises(NonFiniteError):
        training.simulate(torch.full((5, 7), torch.nan), representation, None)
    with pytest.raises(UnsupportedTypeError):
        training.simulate(torch.ones(5, 7, dtype=torch.int32), representation, None)
    with pytest.raises(MismatchError):
        training.simulate(draw((5, 7)), representation, torch.ones(7, 5, dtype=torch.bool))


@pairs
@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_number_is_not_stored(pair, number):
    """However training ended: rounding would make a finite number of it."""
    training, representation = pair
    weight = draw((5, 7))
    broken = weight.clone()
    broken[1, 2] = number
    simulation = training.simulate(weight, representation, None).eval()
    with pytest.raises(NonFiniteError, match="1 of 35 values of the trained weights are NaN or Inf"):
        simulation.compressed(broken, None)
    for name, parameter in simulation.named_parameters():
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter.view(-1)[0] = number
        with pytest.raises(NonFiniteError, match=f"1 of {parameter.numel()} values of the trained {name} are NaN"):
            simulation.compressed(weight, None)
        with torch.no_grad():
            parameter.copy_(before)
    assert torch.isfinite(simulation.compressed(weight, None).dequantize()).all()


@pairs
def test_a_nan_of_the_last_step_is_not_lost(pair):
    training, representation = pair
    weight = draw((5, 7))
    simulation = training.simulate(weight, representation, None)
    weight[1, 2] = torch.nan
    simulation.after_step(weight, None, Clock(20, 20))
    with pytest.raises(NonFiniteError, match="NaN"):
        simulation.eval().compressed(weight, None)


def test_every_default_refuses_nan():
    weight, broken = draw((5, 7)), draw((5, 7))
    broken[0] = torch.nan
    for representation, training in DEFAULTS.items():
        simulation = training.simulate(weight, Palettize(2) if representation is Palettize else representation(), None)
        with pytest.raises(NonFiniteError, match="7 of 35"):
            simulation.compressed(broken, None)


@pytest.mark.parametrize("name", TRAININGS)
def test_configs_travel_as_dictionaries(name):
    config = TRAININGS[name](begin=7, rate=0.5)
    assert TRAININGS[name].from_dict(config.to_dict()) == config
    for wrong in ({"begin": -1}, {"rate": float("nan")}, {"speed": 1}):
        with pytest.raises(UsageError, match=name):
            TRAININGS[name].from_dict(wrong)


def test_every_default_trains_its_representation():
    for representation, training in DEFAULTS.items():
        chosen = Palettize(2) if representation is Palettize else representation()
        assert training.simulate(draw((5, 7)), chosen, None).compressed(draw((5, 7)), None).shape == (5, 7)


def test_masks_that_leave_nothing():
    nothing = torch.zeros(5, 7, dtype=torch.bool)
    for training, representation in PAIRS:
        try:
            simulation = training.simulate(draw((5, 7)), representation, nothing)
        except TersorError as error:
            assert "centroids for 0 weights" in str(error)
            continue
        assert torch.isfinite(simulation.eval()(draw((5, 7)))).all()
        assert not simulation.compressed(draw((5, 7)), nothing).dequantize().any()


@pytest.mark.parametrize("representation", [Quantize(4), Binarize()])
def test_zero_weights(representation):
    weight = torch.zeros(3, 4)
    simulation = DEFAULTS[type(representation)].simulate(weight, representation, None)
    assert torch.equal(simulation(weight), weight)
