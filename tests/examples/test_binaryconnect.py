import pytest
import torch
from torch import nn

from examples import binaryconnect
from examples.binaryconnect import perceptron, rules, squared_hinge, vgg_like
from tersor.recipe import Recipe


def test_short(monkeypatch):
    pytest.importorskip("sklearn")
    arms = binaryconnect.short()["arms"]
    assert list(arms) == list(binaryconnect.ARMS)
    for arm, row in arms.items():
        assert row["test"]["mean"] < (60 if arm == "stochastic" else 25) and row["rate"] in binaryconnect.RATES
        binary = arm in ("deterministic", "stochastic")
        assert (row["bits_a_weight"] < 2.5) == binary


def test_squared_hinge():
    outputs = torch.tensor([[2.0, -0.5], [0.25, -3.0]])
    wanted = [0.0, (1 - 0.5) ** 2, (1 + 0.25) ** 2, (1 + 3.0) ** 2]
    assert squared_hinge(outputs, torch.tensor([0, 1])).item() == pytest.approx(sum(wanted) / 4)


@pytest.mark.parametrize("dropout", [False, True])
def test_networks(dropout):
    model = perceptron(dropout)
    assert sum(p.numel() for p in model.parameters() if p.dim() == 2) == 784 * 1024 + 2 * 1024**2 + 10240
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    paper = vgg_like(dropout, 128)
    assert paper(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert [layer.weight.shape[0] for layer in paper if isinstance(layer, nn.Conv2d)] == [128, 128, 256, 256, 512, 512]
    assert any(isinstance(layer, nn.Dropout) for layer in model) == dropout


def test_arms():
    assert rules("none") == rules("dropout") == []
    assert [rules(arm)[0].train.stochastic for arm in ("deterministic", "stochastic")] == [False, True]
    assert Recipe.from_list(Recipe(rules("stochastic")).to_list()) == Recipe(rules("stochastic"))
