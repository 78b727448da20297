"""Biases and norms on the steps that a rate justifies."""

import copy
import math

import pytest
import torch
from torch import nn

import tersor
from tersor.calibration.divergence import divergence
from tersor.calibration.objectives import random_projection
from tersor.calibration.vectors import round_vectors, vector_loss, vector_weights
from tersor.errors import CalibrationError, UsageError
from tersor.model import CompressedModel, Entry

from .nets import squares


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(11)


def network():
    return nn.Sequential(
        nn.Conv2d(2, 12, 3), nn.ReLU(), nn.GroupNorm(2, 12), nn.Flatten(), nn.Linear(192, 16), nn.Tanh(),
        nn.Linear(16, 6),
    )  # fmt: skip


VECTORS = ["0.bias", "2.weight", "2.bias", "4.bias", "6.bias"]


def rounded_copy(model, rounded):
    student = copy.deepcopy(model)
    student.load_state_dict({name: tensor.dequantize() for name, tensor in rounded.items()}, strict=False)
    return student


def test_weights_are_traces_of_the_fisher_matrix():
    """Against the gradient of each sample; an objective without draws has one sample a batch here."""
    model, x = network(), torch.randn(6, 2, 6, 6)
    got = vector_weights(model, list(x.split(1)), VECTORS, objective=squares, draws=2)
    for name in VECTORS:
        expected = 0.0
        for sample in x:
            (g,) = torch.autograd.grad(squares(model(sample[None]), None), model.get_parameter(name))
            expected += float(g.double().square().sum()) / len(x)
        assert got[name] == pytest.approx(expected, rel=1e-4)


def test_batches_sum_what_samples_have():
    model, x = network(), torch.randn(64, 2, 6, 6)
    together = vector_weights(model, [x], VECTORS, draws=400)
    single = vector_weights(model, list(x.split(1)), VECTORS, draws=20)
    for name in VECTORS:
        assert together[name] == pytest.approx(single[name], rel=0.3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_predicted_loss_is_measured(dtype):
    model, x = network(), torch.randn(200, 2, 6, 6)
    for name in VECTORS:
        if name != "2.weight":
            nn.init.normal_(model.get_parameter(name))
    with torch.no_grad():
        model[2].weight.uniform_(0.5, 2)
    model, samples = model.to(dtype), list(x.to(dtype).split(20))
    weights = vector_weights(model, samples, VECTORS)
    rounded = round_vectors(model, weights, 1e-5)
    assert list(rounded) == VECTORS and all(t.dtype == dtype for t in rounded.values())
    predicted = vector_loss(weights, rounded)
    # The step of the equation, up to half an octave: loss = rate n / (2 ln 2).
    assert predicted == pytest.approx(1e-5 * 62 / math.log(4), rel=0.5)
    if dtype == torch.float32:
        measured = divergence(model, rounded_copy(model, rounded), samples)
        assert predicted / 4 < measured < predicted * 4
    coarse = round_vectors(model, weights, 1e-3)
    assert all(float(coarse[n].scale) >= 4 * float(rounded[n].scale) for n in VECTORS if coarse[n].bits > 2)


def test_they_go_into_a_file(tmp_path):
    model = nn.Sequential(nn.Linear(4, 40), nn.Tanh(), nn.Linear(40, 5))
    weights = vector_weights(model, [torch.randn(8, 4)], ["0.bias", "2.bias"])
    rounded = round_vectors(model, weights, 1e-7)
    path = tmp_path / "vectors.tsr"
    tersor.save(CompressedModel(tuple(Entry(name, tensor) for name, tensor in rounded.items())), path)
    loaded = tersor.load(path)
    assert all(torch.equal(loaded[name], tensor.dequantize()) for name, tensor in rounded.items())


def test_what_is_left_as_it_is():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.ones, self.one = nn.Parameter(torch.ones(5)), nn.Parameter(torch.randn(1))
            self.bad, self.fine = nn.Parameter(torch.tensor([1.0, math.inf])), nn.Parameter(torch.randn(30))
            self.wide, self.empty = nn.Parameter(torch.tensor([1e-3, 1e30])), nn.Parameter(torch.zeros(0))

    names = ["ones", "one", "bad", "fine", "wide", "empty"]
    assert round_vectors(Holder(), dict.fromkeys(names, 1.0), 1e-20) == {}  # 16 bits are too few for that rate
    rounded = round_vectors(Holder(), dict.fromkeys(names, 1.0), 1e-4)
    assert list(rounded) == ["fine"]
    rounded = round_vectors(Holder(), dict.fromkeys(names, 1e-60), 1e-4)
    assert list(rounded) == ["fine", "wide"] and int(rounded["wide"].codes.max()) == 13


def test_extremes_of_the_weights():
    model = nn.Linear(3, 50)
    values = model.bias.detach()
    unused = round_vectors(model, {"bias": 0.0}, 1e-3)["bias"]
    assert (unused.dequantize() - values).abs().max() < values.square().mean().sqrt() / 128
    careless = round_vectors(model, {"bias": 1e-30}, 1e3)["bias"]
    assert 0 < careless.codes.abs().max() <= 2
    assert float(careless.scale) <= math.sqrt(2) * values.square().mean().sqrt()


def test_only_what_was_reached_and_has_gradients():
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle, self.norm = nn.Linear(3, 4), nn.Linear(3, 4), nn.BatchNorm1d(4)

        def forward(self, x):
            return self.norm(self.used(x))

    model = Partly().train()
    model.idle.bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names = ["used.bias", "idle.bias", "norm.weight", "norm.running_mean", "norm.num_batches_tracked"]
    weights = vector_weights(model, [torch.randn(6, 3)] * 3, names, limit=7)
    assert list(weights) == ["used.bias", "norm.weight"]
    assert model.training and not model.idle.bias.requires_grad and model.used.bias.grad is None
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert vector_weights(model, [torch.randn(6, 3)], ["used.bias"], objective=random_projection)["used.bias"] > 0


def test_errors():
    model, x = nn.Linear(3, 4), torch.randn(5, 3)
    with pytest.raises(UsageError, match="'boas'"):
        vector_weights(model, [x], ["boas"])
    with pytest.raises(UsageError, match="samples"):
        vector_weights(model, [], ["bias"])
    with pytest.raises(UsageError, match="draws"):
        vector_weights(model, [x], ["bias"], draws=0)
    with pytest.raises(CalibrationError, match="batch 0"):
        vector_weights(model, [x[:, :2]], ["bias"])
    with pytest.raises(CalibrationError, match=r"bias.*NaN"):
        vector_weights(model, [x * math.inf], ["bias"], objective=squares)
    for rate in (0.0, math.nan, -1.0):
        with pytest.raises(UsageError, match="rate"):
            round_vectors(model, {"bias": 1.0}, rate)
    with pytest.raises(UsageError, match="'boas'"):
        round_vectors(model, {"boas": 1.0}, 1.0)
