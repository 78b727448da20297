"""Error feedback over every representation."""

import numpy as np
import pytest
import torch
from torch import nn

from tersor.calibration.collect import collect
from tersor.calibration.damping import factorize
from tersor.calibration.feedback import feedback_codes, output_error, output_shift, reconstruct
from tersor.calibration.grids import grid_of
from tersor.calibration.layout import Layout
from tersor.errors import MismatchError, UsageError
from tersor.quantization import Binarize, Cast, Lossless, Palettize, Quantize, Ternarize

from .test_damping import statistics_of

CONFIGS = {
    "uniform": Quantize(bits=3),
    "affine": Quantize(bits=2, symmetric=False),
    "one step": Quantize(bits=4, granularity="tensor"),
    "groups": Quantize(bits=3, granularity="group", group_size=5),
    "codebook": Palettize(bits=2),
    "binary": Binarize(),
    "ternary": Ternarize(granularity="tensor"),
}
LAYERS = {
    "linear": (lambda: nn.Linear(70, 12), (300, 70)),
    "conv": (lambda: nn.Conv2d(6, 8, 3), (20, 6, 8, 8)),
    "grouped": (lambda: nn.Conv2d(6, 8, 3, groups=2), (20, 6, 8, 8)),
    "transposed": (lambda: nn.ConvTranspose2d(6, 8, 3, stride=2, groups=2), (20, 6, 8, 8)),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(13)


def _layer(name):
    make, shape = LAYERS[name]
    x = torch.randn(shape)
    mixed = x.flatten(1).cumsum(1).reshape(shape) / 5 + x  # inputs that hang together
    model = nn.Sequential(make())
    return model, mixed, collect(model, [mixed], positions=10**6)["0.weight"]


def _loss(model, quantized, x):
    with torch.no_grad():
        y = model(x)
        weight = model[0].weight.data
        model[0].weight.data = quantized.dequantize()
        error = (model(x) - y).square().sum() / len(x)
        model[0].weight.data = weight
    return float(error)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("masked", [False, True])
def test_feedback_lowers_the_error_of_the_output(layer, config, masked):
    model, x, statistics = _layer(layer)
    weight = model[0].weight.detach()
    mask = torch.rand(weight.shape) < 0.7 if masked else None
    fitted = CONFIGS[config].fit(weight, mask)
    better = reconstruct(weight, fitted, statistics)
    assert type(better) is type(fitted)
    before, after = _loss(model, fitted, x), _loss(model, better, x)
    assert after < (0.9 if layer == "transposed" else 0.8) * before
    error = output_error(weight, better.dequantize(), statistics)
    assert float(error.sum()) == pytest.approx(after, rel=1e-3)
    if mask is not None:
        assert (better.dequantize()[~mask] == 0).all()


@pytest.mark.parametrize("config", CONFIGS)
def test_codes_are_those_of_the_textbook(config):
    """One column at a time, with the inverse of H that elimination leaves (Frantar et al. 2023, equations 2, 3)."""
    weight = torch.randn(4, 70)
    statistics = statistics_of(torch.randn(1, 200, 70).cumsum(2) / 4 + torch.randn(1, 200, 70), rows=4)
    fitted = CONFIGS[config].fit(weight)
    h = statistics.moment[0].double() / statistics.samples
    h += 0.01 * h.diagonal().mean() * torch.eye(70)
    inverse = torch.linalg.inv(h).numpy()
    u = weight.double().numpy().copy()
    expected = np.empty_like(u)
    grid = grid_of(fitted, statistics.layout)
    for j in range(70):
        expected[:, j] = grid.round(torch.from_numpy(u[None, :, j]), j)[1][0]
        error = (u[:, j] - expected[:, j]) / inverse[j, j]
        u -= np.outer(error, inverse[j])
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    got = reconstruct(weight, fitted, statistics).dequantize()
    torch.testing.assert_close(got.double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("layout", [Layout(), Layout(transposed=True), Layout(groups=2), Layout(True, 2)])
def test_the_grid_of_a_representation_is_its_own(config, layout):
    """Without feedback, what is on the grid stays, and what is not goes to the nearest value."""
    weight = torch.randn(6, 7, 2)
    fitted = CONFIGS[config].fit(weight)
    groups, rows, inputs = layout.shape(weight.shape)
    x = torch.eye(inputs).expand(groups, inputs, inputs)
    statistics = statistics_of(x, rows, layout, weight.shape)
    again = reconstruct(fitted.dequantize(), fitted, statistics)
    assert torch.equal(again.dequantize(), fitted.dequantize())
    nearest = reconstruct(weight, fitted, statistics)
    torch.testing.assert_close(
        (nearest.dequantize() - weight).abs(), (fitted.dequantize() - weight).abs(), rtol=1e-5, atol=1e-6
    )


def test_inputs_that_were_never_seen_are_rounded_to_the_nearest():
    x = torch.randn(1, 50, 10)
    x[..., 4:7] = 0
    weight, statistics = torch.randn(3, 10), statistics_of(x)
    fitted = Quantize(bits=3).fit(weight)
    got = reconstruct(weight, fitted, statistics)
    assert torch.equal(got.codes[:, 4:7], fitted.codes[:, 4:7])


def test_an_embedding_is_rounded_to_the_nearest():
    model = nn.Sequential(nn.Embedding(9, 4))
    statistics = collect(model, [torch.randint(9, (3, 5))])["0.weight"]
    weight = model[0].weight.detach()
    fitted = Quantize(bits=4).fit(weight)
    assert torch.equal(reconstruct(weight, fitted, statistics).codes, fitted.codes)
    error = output_error(weight, fitted.dequantize(), statistics)
    by_hand = ((weight - fitted.dequantize()).square() * statistics.moment[0][:, None]).sum(0) / 3
    torch.testing.assert_close(error[0], by_hand.double(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("layer", LAYERS)
def test_the_shift_of_the_mean_output(layer):
    model, x, statistics = _layer(layer)
    weight = model[0].weight.detach()
    fitted = Quantize(bits=2).fit(weight)
    shift = output_shift(weight, fitted.dequantize(), statistics)
    with torch.no_grad():
        dims = (0,) if x.dim() == 2 else (0, 2, 3)
        mean = model(x).mean(dims)
        model[0].weight.data = fitted.dequantize()
        moved = model(x).mean(dims)
    torch.testing.assert_close(shift.float(), mean - moved, rtol=1e-3, atol=1e-5)


def test_equal_calls_give_equal_codes():
    weight, statistics = torch.randn(3, 40), statistics_of(torch.randn(1, 90, 40))
    fitted = Quantize(bits=3).fit(weight)
    codes = [feedback_codes(weight[None], factorize(statistics), grid_of(fitted, Layout())) for _ in range(2)]
    assert torch.equal(*codes)


def test_what_does_not_fit_is_refused():
    weight, statistics = torch.randn(3, 8), statistics_of(torch.randn(1, 20, 8))
    for config in (Cast("bfloat16"), Lossless()):
        with pytest.raises(UsageError, match="scalar grid, got Dense"):
            reconstruct(weight, config.fit(weight), statistics)
    with pytest.raises(MismatchError, match=r"\(3, 8\)"):
        reconstruct(torch.randn(4, 8), Quantize().fit(torch.randn(4, 8)), statistics)
    with pytest.raises(MismatchError, match=r"\(1, 3, 8\)"):
        output_error(torch.randn(8, 3), weight, statistics)
