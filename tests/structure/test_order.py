"""Units that change places: the network computes the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tersor.errors import UsageError
from tersor.structure.groups import find_groups
from tersor.structure.order import _chain, alike, permuted
from tersor.structure.trace import trace


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc1 = nn.Linear(4 * 9, 6)
        self.fc2 = nn.Linear(6, 3)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = Chain().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(torch.rand(parameter.shape) < 0.4)
        model.conv.weight[1] = 0
        model.fc1.weight[:, 9:18] = 0
    x = torch.randn(5, 1, 8, 8)
    return model, x, find_groups(trace(model, (x,)))


def test_the_network_computes_the_same(network):
    model, x, groups = network
    orders = alike(model.state_dict(), groups)
    assert sorted(orders) == ["conv.weight", "fc1.weight"] and orders["conv.weight"][-1] == 1  # the dead one
    other = Chain().eval()
    other.load_state_dict(permuted(model.state_dict(), groups, orders))
    with torch.no_grad():
        assert torch.allclose(other(x), model(x), atol=1e-6)
    assert not torch.equal(other.fc1.weight, model.fc1.weight)


def test_an_order_and_its_inverse_change_nothing(network):
    model, _, groups = network
    order = [3, 0, 5, 1, 4, 2]
    there = permuted(model.state_dict(), groups, {"fc1.weight": order})
    back = permuted(there, groups, {"fc1.weight": [order.index(unit) for unit in range(6)]})
    for name, tensor in model.state_dict().items():
        assert torch.equal(back[name], tensor)
    assert there["conv.weight"] is not None and torch.equal(there["fc2.weight"][:, 0], model.fc2.weight[:, 3])


def test_chains_go_from_row_to_row_that_is_alike():
    rows = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 1, 0.0]])
    assert _chain(rows) == [1, 2, 4, 3, 0]


@pytest.mark.parametrize("orders", [{"fc9.weight": [0]}, {"fc1.weight": [0, 1, 2, 3, 4, 4]}, {"fc1.weight": [0]}])
def test_bad_orders(network, orders):
    model, _, groups = network
    with pytest.raises(UsageError, match="group"):
        permuted(model.state_dict(), groups, orders)
