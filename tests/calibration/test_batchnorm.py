"""Batch norm re-estimation."""

import copy

import pytest
import torch
from torch import nn

from tersor.calibration.batchnorm import apply, factor_and_shift, reestimate


def test_moments_are_those_of_training_mode():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4),
        nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5),
    )  # fmt: skip
    x = 3 * torch.randn(20, 2, 6, 6) + 100
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trained = copy.deepcopy(model).train()
    for module in trained.modules():
        if hasattr(module, "momentum"):
            module.momentum = None
    trained(x)
    moments = reestimate(model, [x])
    assert list(moments) == ["1", "4", "7"]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    apply(model, moments)
    for name in moments:
        ours, torchs = model.get_submodule(name), trained.get_submodule(name)
        torch.testing.assert_close(ours.running_mean, torchs.running_mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.running_var, torchs.running_var, rtol=1e-4, atol=1e-4)


def test_batches_of_different_means_widen_the_variance():
    model = nn.Sequential(nn.BatchNorm1d(1))
    x = torch.cat([torch.randn(50, 1), torch.randn(30, 1) + 10])
    mean, variance = reestimate(model, [x[:50], x[50:]])["0"]
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(variance, x.var(0))


def test_a_single_value_is_not_enough():
    assert reestimate(nn.Sequential(nn.BatchNorm1d(3)), [torch.randn(1, 3)]) == {}
    assert reestimate(nn.Sequential(nn.Linear(3, 3)), [torch.randn(1, 3)]) == {}


@pytest.mark.parametrize("tracked", [True, False])
def test_a_factor_and_a_shift_compute_the_same(tracked):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, eps=1e-3)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.normal_()
        norm.running_var.uniform_(0.1, 9.0)
        norm.running_var[2] = 1e-5  # little, but not nothing
    norm.eval().num_batches_tracked = torch.tensor(7) if tracked else None
    x = torch.randn(5, 4, 3, 3)
    x[:, 2] = norm.running_mean[2] + 1e-3 * torch.randn(5, 3, 3)
    before = norm(x).detach()
    factor_and_shift(norm)
    torch.testing.assert_close(norm(x).detach(), before, rtol=1e-4, atol=1e-4)
    assert not norm.running_mean.any() and torch.all(norm.running_var + norm.eps == 1.0)
    assert (norm.num_batches_tracked == 0) if tracked else norm.num_batches_tracked is None
    again = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    factor_and_shift(norm)
    assert all(torch.equal(tensor, again[name]) for name, tensor in norm.state_dict().items())


def test_channels_in_which_nothing_varies_get_no_factor():
    norm = nn.BatchNorm1d(3).eval()
    with torch.no_grad():
        norm.running_var[1], norm.running_mean[1], norm.bias[1] = 1e-17, 0.3, 0.5
    factor_and_shift(norm)
    assert norm.weight[1] == 0.0 and norm.bias[1] == 0.5 and bool(norm.weight[0] > 0.9)
