import numpy as np
import pytest
import torch

from tersor.quantization import Binarize
from tests.quantization.weights import draw_weight, squared_error


def brute_force_error(values):
    """Least squared error of +-s over s, for one group: the signs are the weights' own for every s > 0."""
    scales = np.linspace(0, np.abs(values).max(), 4001)
    return min(float(((np.abs(values) - s) ** 2).sum()) for s in scales)


@pytest.mark.parametrize("kind", ["normal", "heavy", "shifted"])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_least_squared_error(kind, granularity):
    weight = draw_weight((5, 40), kind)
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    tensor = Binarize(granularity).fit(weight, mask)
    rows = [(weight, mask)] if granularity == "tensor" else zip(weight, mask, strict=True)
    best = sum(brute_force_error(w[m].numpy().astype(np.float64)) for w, m in rows)
    assert tensor.scale.shape == ((5, 1) if granularity == "channel" else (1, 1))
    assert squared_error(weight, tensor) <= best * 1.001 + 1e-9


def test_scale_is_the_mean_magnitude_and_signs_those_of_the_weights():
    weight = torch.tensor([[1.0, -2.0, 3.0, -6.0], [0.0, 0.0, -0.0, 0.0]])
    tensor = Binarize().fit(weight)
    assert tensor.scale.tolist() == [[3.0], [0.0]]
    assert tensor.signs.tolist() == [[True, False, True, False], [True] * 4]


def test_binary_weights_are_exact():
    weight = draw_weight((4, 30)).sign() * torch.tensor([[0.1], [0.7342], [3.3], [1e-3]])
    assert torch.equal(Binarize().fit(weight).dequantize(), weight)
