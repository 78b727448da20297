"""Statistics of a quantized prefix against the float network."""

import copy

import pytest
import torch
from torch import nn

from tersor.calibration.collect import collect
from tersor.calibration.pairs import collect_pair
from tersor.errors import CalibrationError, MismatchError


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(7)


def _coarse(model, step=0.2):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other[0].parameters():
            p.copy_((p / step).round() * step)
    return other


def test_pairs_are_the_explicit_sums():
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 4))
    other, x = _coarse(model), torch.randn(30, 5)
    got = collect_pair(model, other, [x[:8], x[8:]], ["2"])["2.weight"]
    a, b = model[:2](x).detach(), other[:2](x).detach()
    torch.testing.assert_close(got.quantized.moment[0], b.T @ b, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.cross[0], a.T @ b, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.input_sum[0], a.double().sum(0), rtol=1e-5, atol=1e-5)
    assert got.quantized.samples == 30
    both = collect_pair(model, other, [x[:8]], ["2"])["2.weight"].merge(
        collect_pair(model, other, [x[8:]], ["2"])["2.weight"]
    )
    torch.testing.assert_close(both.cross, got.cross)


@pytest.mark.parametrize("memory", [1, 1 << 20])
def test_the_target_is_the_least_squares_solution(memory):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 2, groups=2, padding=1))
    other, x = _coarse(model), torch.randn(6, 2, 7, 7)
    pair = collect_pair(model, other, [x], ["2.weight"], memory=memory)["2.weight"]
    weight = model[2].weight
    target = pair.quantized.layout.weight(pair.target(weight, damping=1e-6), weight.shape).float()
    goal = model(x)

    def error(w):
        changed = copy.deepcopy(other)
        changed[2].weight.data = w
        return float((changed(x) - goal).detach().square().sum())

    best = error(target)
    assert best < 0.9 * error(weight)
    for _ in range(20):
        assert best <= error(target + 0.01 * torch.randn_like(target)) + 1e-6
    # A heavier ridge stays nearer to the weight; equal networks leave it alone.
    near = pair.target(weight, damping=1e3)
    torch.testing.assert_close(near, pair.quantized.layout.matrices(weight.detach().double()), rtol=0, atol=1e-2)
    same = collect_pair(model, model, [x], ["2"])["2.weight"]
    torch.testing.assert_close(same.target(weight), near, rtol=0, atol=1e-2)


def test_the_shift_makes_up_for_the_prefix_and_the_weight():
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4))
    other, x = _coarse(model), torch.randn(40, 5)
    with torch.no_grad():
        other[2].weight.mul_(1.1)
        pair = collect_pair(model, other, [x[:9], x[9:]], ["2"])["2.weight"]
        shift = pair.output_shift(model[2].weight, other[2].weight)
        torch.testing.assert_close(shift.float(), (model(x) - other(x)).mean(0), rtol=1e-4, atol=1e-5)


def test_layers_that_see_nothing_keep_their_weights():
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1)
    pair = collect_pair(model, model, [torch.randn(4, 3)], ["2"])["2.weight"]
    torch.testing.assert_close(pair.target(model[2].weight)[0], model[2].weight.detach().double())


def test_embeddings_pair_their_counts():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))
    tokens = torch.tensor([[0, 1, 1], [4, 4, 4]])
    pair = collect_pair(model, model, [tokens], ["0"])["0.weight"]
    assert pair.cross.tolist() == [[1, 2, 0, 0, 3]]
    assert torch.equal(pair.target(model[0].weight)[0], model[0].weight.detach().double().T)


def test_networks_that_do_not_correspond():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    with pytest.raises(MismatchError, match="same layers"):
        collect_pair(model, nn.Sequential(nn.RNN(3, 3), nn.Linear(3, 2)), [torch.randn(1, 3)], ["0"])

    class Twice(nn.Module):
        def __init__(self, times):
            super().__init__()
            self.layer, self.times = nn.Linear(3, 3), times

        def forward(self, x):
            for _ in range(self.times):
                x = self.layer(x)
            return x

    x = [torch.randn(2, 3)]
    with pytest.raises(CalibrationError, match=r"layer\.weight: the quantized model uses it more often"):
        collect_pair(Twice(1), Twice(2), x, ["layer"])
    with pytest.raises(CalibrationError, match=r"layer\.weight: the float model uses it more often"):
        collect_pair(Twice(2), Twice(1), x, ["layer"])


def test_the_quantized_models_own_statistics_agree():
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4))
    other, x = _coarse(model), torch.randn(9, 5)
    pair = collect_pair(model, other, [x], ["2"])["2.weight"]
    assert torch.equal(pair.quantized.moment, collect(other, [x])["2.weight"].moment)
