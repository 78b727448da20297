from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tersor.calibration import LayerStatistics, factorize, output_error
from tersor.calibration.collect import collect
from tersor.errors import UsageError
from tersor.posttraining import Calibrate
from tersor.posttraining.candidates import best_candidate, candidates, obs_mask
from tersor.posttraining.layer import row_weights
from tersor.tensors import Binary, Codebook, CompressedTensor, Dense, Ternary, Uniform


@pytest.fixture
def layer() -> tuple[Tensor, LayerStatistics, Tensor]:
    torch.manual_seed(0)
    model = nn.Linear(24, 12)
    x = torch.randn(200, 24) @ torch.randn(24, 24)
    statistics = collect(model, [x], fisher=True)["weight"]
    return model.weight.detach(), statistics, row_weights(statistics, 0.1)


def bits(tensor: CompressedTensor) -> int:
    """A stand-in for a file: what weights cost without entropy coding, in bytes."""
    if isinstance(tensor, Dense):
        return 4 * tensor.numel
    if isinstance(tensor, Codebook):
        return (tensor.bits * tensor.numel >> 3) + 4 * tensor.codebook.numel()
    return (getattr(tensor, "bits", 1) * tensor.numel >> 3) + 4


def test_every_technique_gives_its_representation(layer) -> None:
    weight, statistics, weights = layer
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
        found = list(candidates(weight, weight, statistics, weights, 1e-4, options))
        assert [type(tensor) for tensor in found] == expected
        assert all(tensor.dequantize().shape == weight.shape for tensor in found)
        assert all((tensor.mask is not None) == (technique == "sparse") for tensor in found)


def test_the_cheapest_is_chosen_and_rates_decide(layer) -> None:
    weight, statistics, weights = layer
    options = Calibrate(techniques=("uniform", "binary", "int8", "lossless"))
    chosen = {}
    for rate in (1e-12, 1e-3, 1e6):
        best = best_candidate(weight, weight, statistics, weights, rate, options, bits)
        costs = [
            float((weights * output_error(weight, t.dequantize(), statistics)).sum()) / 2 + rate * 8 * bits(t)
            for t in candidates(weight, weight, statistics, weights, rate, options)
        ]
        assert costs[0] > 0
        own = float((weights * output_error(weight, best.dequantize(), statistics)).sum()) / 2 + rate * 8 * bits(best)
        assert own == pytest.approx(min(costs))
        chosen[rate] = type(best)
    assert chosen[1e-12] is Dense and chosen[1e6] is not Dense


def test_masks_keep_what_costs_most(layer) -> None:
    weight, statistics, weights = layer
    factor = factorize(statistics)
    mask = obs_mask(weight, statistics, factor, weights, 0.25)
    assert mask.shape == weight.shape and int(mask.sum()) == 72
    cost = weight.double().square() * weights[0][:, None] * factor.precision()
    assert cost[mask].min() >= cost[~mask].max()


def test_unknown_techniques_are_named() -> None:
    with pytest.raises(UsageError, match="unknown technique 'magic'; there are uniform"):
        Calibrate(techniques=("magic",))
