import numpy as np
import pytest
import torch

from tersor.quantization import Ternarize, ternary
from tests.quantization.weights import draw_weight, squared_error


def brute_force_error(values):
    """Least squared error over every number k of largest magnitudes, each with its own best scale."""
    magnitudes = np.sort(np.abs(values))[::-1]
    total = float((values**2).sum())
    return min(total - magnitudes[:k].sum() ** 2 / k for k in range(1, values.size + 1))


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize("kind", ["normal", "heavy", "sparse", "shifted"])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_optimal_is_optimal(monkeypatch, block, kind, granularity):
    whole = ternary.blocks
    if block < 1 << 20:
        monkeypatch.setattr(ternary, "blocks", lambda n: (slice(s, min(s + block, n)) for s in range(0, n, block)))
    else:
        assert ternary.blocks is whole
    weight = draw_weight((4, 50), kind)
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.8
    tensor = Ternarize(granularity).fit(weight, mask)
    rows = [(weight, mask)] if granularity == "tensor" else zip(weight, mask, strict=True)
    best = sum(brute_force_error(w[m].numpy().astype(np.float64)) for w, m in rows)
    assert squared_error(weight, tensor) <= best * 1.001 + 1e-9


def test_ties_are_treated_alike():
    weight = torch.tensor([[1.0, -1.0, 1.0, 0.25, -0.25, 0.25, 0.25]])
    assert Ternarize().fit(weight).codes.tolist() == [[1, -1, 1, 0, 0, 0, 0]]


def test_twn_is_the_papers_rule():
    weight = draw_weight((3, 1000))
    tensor = Ternarize(rule="twn").fit(weight)
    for row, codes, scale in zip(weight.numpy().astype(np.float64), tensor.codes, tensor.scale, strict=True):
        threshold = 0.7 * np.abs(row).mean()
        above = np.abs(row) > threshold
        assert np.array_equal(codes.numpy(), np.sign(row) * above)
        assert float(scale) == pytest.approx(np.abs(row[above]).mean(), rel=2.0**-8)
    assert squared_error(weight, tensor) >= squared_error(weight, Ternarize().fit(weight))


@pytest.mark.parametrize("rule", ["optimal", "twn"])
def test_zero_rows(rule):
    weight = draw_weight((3, 6))
    weight[1] = 0
    tensor = Ternarize(rule=rule).fit(weight)
    assert (tensor.codes[1] == 0).all()
    assert (tensor.codes[0] != 0).any() and (tensor.codes[2] != 0).any()
    assert (tensor.dequantize()[1] == 0).all()


@pytest.mark.parametrize("rule", ["optimal", "twn"])
def test_ternary_weights_are_exact(rule):
    codes = torch.randint(-1, 2, (4, 90), generator=torch.Generator().manual_seed(0))
    weight = codes * torch.tensor([[0.1], [0.7342], [3.3], [1e-3]])
    tensor = Ternarize(rule=rule).fit(weight)
    assert torch.equal(tensor.codes, codes.to(torch.int8))
    assert torch.equal(tensor.dequantize(), weight)
