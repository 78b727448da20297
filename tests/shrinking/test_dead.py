"""Dead units: what is found, and that the network computes the same without them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from tersor.errors import StructureError, UsageError
from tersor.shrinking.dead import dead_units, fold_dead
from tersor.shrinking.holding import hold
from tersor.structure.cuts import cut, embedded, selected_cuts, taken
from tersor.structure.edits import Edits
from tersor.structure.groups import find_groups
from tersor.structure.surgery import shrink
from tersor.structure.trace import trace


class LeNet(nn.Module):
    """A small network of the shape of LeNet-5: no padding, pooling, a flattened picture."""

    def __init__(self, padding=0):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.conv2 = nn.Conv2d(4, 6, 3, padding=padding)
        self.norm = nn.BatchNorm2d(6)
        self.fc1 = nn.Linear(6 * (2 + padding) ** 2, 8)
        self.fc2 = nn.Linear(8, 3)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(torch.tanh(self.norm(self.conv2(x))), 2)
        return self.fc2(F.gelu(self.fc1(x.flatten(1))))


def network(padding=0):
    torch.manual_seed(0)
    model = LeNet(padding).eval()
    with torch.no_grad():
        model.norm.running_mean.uniform_(-1, 1)
        model.norm.running_var.uniform_(0.5, 2)
        model.norm.bias.uniform_(-1, 1)
    x = torch.randn(5, 1, 14, 14)
    found = trace(model, (x[:2],))
    return model, x, found, find_groups(found)


@torch.no_grad()
def close_sources(model):
    """One unit of each layer is a constant."""
    model.conv1.weight[2] = 0
    model.conv1.bias[2] = 0.7
    model.conv2.weight[1] = 0
    model.fc1.weight[5] = 0


@torch.no_grad()
def same(one, other, x):
    return torch.allclose(one(x), other(x), rtol=1e-4, atol=1e-6)


def test_constants_fold_into_the_next_biases():
    model, x, _, groups = network()
    close_sources(model)
    before = copy.deepcopy(model.state_dict())
    folded = fold_dead(model, groups, (x,))
    assert folded.dead == {"conv1.weight": (2,), "conv2.weight": (1,), "fc1.weight": (5,)}
    assert same(folded.model, model, x) and same(folded.model, model, torch.randn(7, 1, 14, 14))
    assert not folded.model.conv2.weight[:, 2].any() and not folded.model.conv1.bias[2]
    assert not torch.equal(folded.model.conv2.bias, model.conv2.bias)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_nothing_reads_goes_and_what_only_that_read_goes_too():
    model, x, _, groups = network()
    with torch.no_grad():
        model.fc2.weight[:, 3] = 0
        model.fc1.weight[[i for i in range(8) if i != 3], 8:12] = 0  # the third channel of conv2 is for unit 3 alone
    folded = fold_dead(model, groups, (x,), constants=False)
    assert folded.dead == {"conv2.weight": (2,), "fc1.weight": (3,)}
    with torch.no_grad():
        assert torch.equal(folded.model(x), model(x))


def test_shrunk_without_them_the_network_is_the_same():
    model, x, found, groups = network()
    close_sources(model)
    before = copy.deepcopy(model)
    folded = fold_dead(model, groups, (x,), inplace=True)
    smaller = shrink(model, folded.dead, groups, found)
    assert smaller.conv1.out_channels == 3 and smaller.fc1.in_features == 20 and same(smaller, before, x)


def test_shapes_of_the_original_come_back():
    model, x, _, groups = network()
    close_sources(model)
    folded = fold_dead(model, groups, (x,))
    whole = folded.model.state_dict()
    cuts = selected_cuts(folded.model, folded.dead, groups)
    small = LeNet()
    cut(small, cuts, Edits())
    small.load_state_dict({name: taken(name, tensor, cuts) for name, tensor in whole.items()})
    assert same(small.eval(), model, x)
    for name, tensor in small.state_dict().items():
        again = embedded(name, tensor, cuts)
        # Batch norm's running moments of what is gone are of no matter.
        assert again.shape == whole[name].shape and ("running" in name or torch.equal(again, whole[name]))


def test_constants_stay_where_padding_would_cut_them():
    model, x, _, groups = network(padding=1)
    close_sources(model)
    folded = fold_dead(model, groups, (x,))
    assert "conv1.weight" not in folded.dead and set(folded.dead) == {"conv2.weight", "fc1.weight"}
    with torch.no_grad():
        model.conv1.bias[2] = -0.7  # relu makes it zero, and zero is what the border is
    folded = fold_dead(model, groups, (x,))
    assert folded.dead["conv1.weight"] == (2,) and same(folded.model, model, x)


def test_layers_without_a_bias_take_no_constants():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3, bias=False)).eval()
    with torch.no_grad():
        model[0].weight[1] = 0
        model[0].bias[1] = 1
        model[0].weight[2] = 0
        model[0].bias[2] = -1
    x = torch.randn(6, 4)
    groups = find_groups(trace(model, (x,)))
    assert fold_dead(model, groups, (x,)).dead == {"0.weight": (2,)}


def test_one_unit_stays_of_a_group_that_is_dead():
    model, x, found, groups = network()
    with torch.no_grad():
        model.fc2.weight.zero_()
    before = copy.deepcopy(model)
    folded = fold_dead(model, groups, (x,), inplace=True)
    assert folded.dead["fc1.weight"] == tuple(range(1, 8)) and len(folded.dead["conv1.weight"]) == 3
    assert same(shrink(model, folded.dead, groups, found), before, x)
    assert torch.equal(before.fc2.bias, model.fc2.bias)


def test_a_living_network_is_left_as_it_is():
    model, x, _, groups = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = fold_dead(model, groups, (x,), inplace=True)
    assert folded.model is model and folded.dead == {} == dead_units(model, groups)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_parametrized_models_are_refused():
    model, x, _, groups = network()
    hold(model, {"fc1.weight": torch.ones(8, 24, dtype=torch.bool)})
    assert parametrize.is_parametrized(model.fc1)
    with pytest.raises(UsageError, match="finalize"):
        fold_dead(model, groups, (x,))


def test_tolerances_are_checked_at_once():
    model, x, _, groups = network()
    for wrong in (float("nan"), -1, "x", True):
        with pytest.raises(UsageError, match="tolerance must be a number from 0 upwards"):
            fold_dead(model, groups, (x,), tolerance=wrong)


def test_outputs_that_move_are_an_error_and_the_model_stays():
    """What looks like a constant is none where the network acts differently on other inputs."""

    class Odd(LeNet):
        def forward(self, x):
            if hasattr(self, "calls"):
                self.calls += 1
                return super().forward(x) + self.calls
            return super().forward(x)

    model, x, _, groups = network()
    close_sources(model)
    model.__class__ = Odd
    model.calls = 0
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(StructureError, match="not dead"):
        fold_dead(model, groups, (x,), inplace=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
