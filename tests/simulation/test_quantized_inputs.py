"""Quantizers of inputs: what training sees is what an integer network computes."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import tersor
from tersor.errors import CalibrationError, UsageError
from tersor.simulation import ACTIVATIONS, SignActivations
from tersor.simulation.quantized_inputs import QuantizeInputs

LAYER = nn.Linear(4, 3)


def quantizer(x, **options):
    made = QuantizeInputs(**options).simulate(LAYER)
    made(x)
    return made


@pytest.mark.parametrize("steps", ["learned", "observed"])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_forward_is_the_grid(steps, bits, symmetric):
    x = torch.randn(20, 4)
    made = quantizer(x, bits=bits, steps=steps, symmetric=symmetric).eval()
    grid = made.grid()
    assert torch.equal(made(x), grid.dequantize(grid.quantize(x)))
    assert len(made(x).unique()) <= 1 << bits
    assert made(x.bfloat16()).dtype == torch.bfloat16


def test_steps_are_learned_towards_less_error():
    torch.manual_seed(0)
    x = torch.randn(200, 4)
    made = QuantizeInputs(bits=3, method="min-max").simulate(LAYER)
    made(x)
    first, before = made.grid().scale, float((made(x) - x).detach().square().mean())
    optimizer = torch.optim.Adam(made.parameters(), lr=0.02)
    for _ in range(30):
        optimizer.zero_grad()
        (made(x) - x).square().mean().backward()
        optimizer.step()
    assert made.grid().scale < first and float((made(x) - x).detach().square().mean()) < 0.9 * before


def test_gradients_pass_within_the_range_only():
    made = quantizer(torch.tensor([[0.0, 1.0, 2.0, 3.0]]), bits=4, method="min-max")
    x = torch.tensor([[-1.0, 0.5, 2.9, 9.0]], requires_grad=True)
    made(x).sum().backward()
    assert x.grad.tolist() == [[0.0, 1.0, 1.0, 0.0]]
    assert float(made.factor.grad) > 0  # the clamped 9 grows with the step


def test_gradient_of_the_step_is_that_of_the_paper():
    """round(v) - v inside, the end less the zero point where x is clamped, v = x / s; scaled by 1 / sqrt(N Q)."""
    first, x = torch.tensor([[-1.0, 0.3, 2.0, 3.0]]), torch.tensor([[-4.0, 0.5, 1.1, 9.0], [0.2, -0.6, 2.2, 3.1]])
    made = quantizer(first, bits=4, method="min-max")
    grid = made.grid()
    made(x).sum().backward()
    v = x / grid.scale
    codes = (v + grid.zero).round()
    slopes = torch.where(codes < 0, -grid.zero, torch.where(codes > 15, 15 - grid.zero, v.round() - v))
    gain = (4 * (15 - grid.zero)) ** -0.5
    # In units of the first step: plain descent moves the step as it would the step itself.
    assert float(made.factor.grad) == pytest.approx(gain * float(slopes.sum()) / grid.scale, rel=1e-4)


def test_fixed_point_steps_are_powers_of_two():
    made = quantizer(torch.randn(50, 4) * 3, fixed_point=True)
    assert torch.tensor(made.grid().scale).log2().frac() == 0


def test_only_training_batches_move_the_grid_and_state_resumes():
    made = QuantizeInputs(steps="observed").simulate(LAYER)
    x = torch.randn(10, 4)
    assert made.eval()(x) is x
    made.train()(x)
    grid = made.grid()
    made.eval()(x * 100)
    assert made.grid() == grid
    other = QuantizeInputs(steps="observed").simulate(LAYER)
    other.load_state_dict(made.state_dict())
    assert made.train()(x * 2).equal(other.train()(x * 2)) and made.grid() == other.grid() != grid


def test_errors_and_registry():
    assert ACTIVATIONS["quantize_inputs"].from_dict({"bits": 4}).bits == 4
    with pytest.raises(CalibrationError, match="no training batch"):
        QuantizeInputs().simulate(LAYER).grid()
    for module in (nn.ReLU(), nn.Embedding(3, 4)):
        with pytest.raises(UsageError, match="quantize_inputs"):
            QuantizeInputs().simulate(module)
    for wrong in ({"bits": 1}, {"steps": "free"}, {"batches": 0}):
        with pytest.raises(UsageError):
            QuantizeInputs(**wrong)


def test_compiled():
    """Once the first batches are seen nothing waits for the device, nor breaks the graph."""
    made = QuantizeInputs(bits=4).simulate(LAYER)
    x = torch.randn(6, 4)
    made(x)
    made(x)
    for mode in (True, False):
        made.train(mode)
        torch._dynamo.reset()
        assert torch.equal(torch.compile(made, backend="eager", fullgraph=True)(x), made(x))


def test_a_state_of_nothing_seen_begins_again():
    made, fresh = QuantizeInputs(batches=2).simulate(LAYER), QuantizeInputs(batches=2).simulate(LAYER).state_dict()
    x = torch.randn(6, 4)
    for _ in range(3):
        made(x)
    made.load_state_dict(fresh)
    assert made.eval()(x) is x
    made.train()(x * 50)
    assert made.grid().scale > 5 * float(x.abs().max()) / 256


@pytest.mark.parametrize("config", [QuantizeInputs(), SignActivations()])
def test_inputs_that_no_quantizer_reaches(config):
    attention = nn.MultiheadAttention(4, 2)
    for layer in (attention, attention.out_proj):
        with pytest.raises(UsageError, match=f"{config.name}: torch's MultiheadAttention .*out_proj"):
            config.simulate(layer)
    with pytest.raises(UsageError, match="the inputs of Embedding are indices"):
        config.simulate(nn.Embedding(3, 4))


def test_classes_are_called_as_they_were_written():
    layer = nn.BatchNorm1d(3)
    parametrize.register_parametrization(layer, "weight", nn.Identity())
    for config in (QuantizeInputs(), SignActivations()):
        with pytest.raises(UsageError, match=r"got BatchNorm1d$"):
            config.simulate(layer)


def test_patterns_leave_embeddings_out_and_names_do_not():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3))
    session = tersor.prepare(model, [tersor.Rule("*", activations=SignActivations())])
    assert list(session.quantizers) == ["1"]
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3))
    with pytest.raises(UsageError, match=r"0: sign_activations: the inputs of Embedding are indices"):
        tersor.prepare(model, [tersor.Rule("0.weight", activations=SignActivations())])
