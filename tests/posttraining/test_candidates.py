from __future__ import annotations

import pytest
import torch
from torch import nn

from tersor.calibration import factorize, output_error
from tersor.calibration.collect import collect
from tersor.errors import UsageError
from tersor.posttraining import Calibrate
from tersor.posttraining.candidates import best_candidate, candidates, obs_mask
from tersor.posttraining.layer import Layer, row_weights
from tersor.tensors import Binary, Codebook, CompressedTensor, Dense, Ternary, Uniform


@pytest.fixture
def layer() -> Layer:
    torch.manual_seed(0)
    model = nn.Linear(24, 12)
    x = torch.randn(200, 24) @ torch.randn(24, 24)
    statistics = collect(model, [x], fisher=True)["weight"]
    weight = model.weight.detach()
    return Layer(weight, weight, statistics, row_weights(statistics, 0.1))


def bits(tensor: CompressedTensor) -> int:
    """A stand-in for a file: what weights cost without entropy coding, in bytes."""
    if isinstance(tensor, Dense):
        return 4 * tensor.numel
    if isinstance(tensor, Codebook):
        return (tensor.bits * tensor.numel >> 3) + 4 * tensor.codebook.numel()
    return (getattr(tensor, "bits", 1) * tensor.numel >> 3) + 4


def lost(layer: Layer, tensor: CompressedTensor) -> float:
    return float((layer.rows * output_error(layer.weight, tensor.dequantize(), layer.statistics)).sum())


def test_every_technique_gives_its_representation(layer) -> None:
    kinds = {
        "uniform": [Uniform],
        "sparse": [Uniform] * 3,
        "codebook": [Codebook] * 5,
        "int8": [Uniform],
        "ternary": [Ternary],
        "binary": [Binary],
        "lossless": [Dense],
    }
    for technique, expected in kinds.items():
        options = Calibrate(techniques=(technique,))
        found = list(candidates(layer, 1e-4, options))
        assert [type(tensor) for tensor in found] == expected
        assert all(tensor.dequantize().shape == layer.weight.shape for tensor in found)
        assert all((tensor.mask is not None) == (technique == "sparse") for tensor in found)


@pytest.mark.parametrize("technique", ["uniform", "sparse", "codebook", "int8", "ternary", "binary", "lossless"])
def test_pruned_weights_stay_zero(layer, technique) -> None:
    pruned = torch.rand(layer.weight.shape) < 0.4
    weight = layer.weight.masked_fill(pruned, 0.0)
    # What the layer should compute behind quantized ones would have weights everywhere.
    sparse = Layer(weight, weight + 0.1, layer.statistics, layer.rows)
    for tensor in candidates(sparse, 1e-4, Calibrate(techniques=(technique,))):
        values = tensor.dequantize()
        assert not values[pruned].any()
        assert values[~pruned].any()


def test_the_cheapest_is_chosen_and_rates_decide(layer) -> None:
    options = Calibrate(techniques=("uniform", "binary", "int8", "lossless"))
    chosen = {}
    for rate in (1e-12, 1e-3, 1e6):
        best = best_candidate(layer, rate, options, bits)
        costs = [lost(layer, t) / 2 + rate * 8 * bits(t) for t in candidates(layer, rate, options)]
        assert costs[0] > 0
        own = lost(layer, best) / 2 + rate * 8 * bits(best)
        assert own == pytest.approx(min(costs))
        chosen[rate] = type(best)
    assert chosen[1e-12] is Dense and chosen[1e6] is not Dense


def test_masks_keep_what_costs_most(layer) -> None:
    factor = factorize(layer.statistics)
    mask = obs_mask(layer, factor, 0.25)
    assert mask.shape == layer.weight.shape and int(mask.sum()) == 72
    cost = layer.weight.double().square() * layer.rows[0][:, None] * factor.precision()
    assert cost[mask].min() >= cost[~mask].max()


def test_unknown_techniques_are_named() -> None:
    with pytest.raises(UsageError, match="unknown technique 'magic'; there are uniform"):
        Calibrate(techniques=("magic",))
