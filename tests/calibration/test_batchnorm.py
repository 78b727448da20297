"""Batch norm re-estimation."""

import copy

import torch
from torch import nn

from tersor.calibration.batchnorm import apply, reestimate


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
