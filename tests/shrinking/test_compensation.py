"""Layers that read channels that went make good for them."""

import copy

import pytest
import torch
from torch import nn

import tersor
from tersor.pruning import Prune, PruneChannels


class Doubled(nn.Module):
    """Channels 0 and 1 of the hidden layer are the same up to a factor, so that either can stand for both."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 4, 3)
        with torch.no_grad():
            self.first.weight[1] = 0.5 * self.first.weight[0]
            self.first.bias[1] = 0.5 * self.first.bias[0]

    def forward(self, x):
        return self.second(self.first(x).relu())


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Doubled().eval()


@pytest.fixture
def samples():
    return list(torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(1)).split(16))


def less_one(network, samples, **options):
    return tersor.prune(
        network,
        PruneChannels(1 / 6, match="first.weight"),
        example_inputs=samples[0][:1],
        calibration=samples,
        **options,
    )


def test_what_another_channel_can_say_is_not_lost(network, samples):
    before, state = network(samples[0]), copy.deepcopy(network.state_dict())
    repaired = less_one(network, samples, repair=True)
    plain = less_one(network, samples, repair=False)
    assert repaired.model.second.weight.shape == plain.model.second.weight.shape == (4, 5, 3, 3)

    @torch.no_grad()
    def error(model):
        return float((model(samples[0]) - before).square().mean())

    assert error(repaired.model) < 1e-3 * error(plain.model)
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())


def test_least_squares_of_the_kept_inputs(network, samples):
    """The slow twin: regression of the old outputs on the inputs that are left, none of which can replace the one."""
    with torch.no_grad():
        network.first.weight[1].normal_(0, 0.5)
    found = less_one(network, samples, repair=True).model
    x = torch.cat(samples)
    kept = [i for i in range(6) if any(torch.equal(network.first.weight[i], row) for row in found.first.weight)]
    patches = nn.functional.unfold(network.first(x).relu()[:, kept], 3).transpose(1, 2).reshape(-1, 45).double()
    wanted = (network(x) - network.second.bias[:, None, None]).flatten(2).transpose(1, 2).reshape(-1, 4).double()
    best = torch.linalg.lstsq(patches, wanted).solution.T

    @torch.no_grad()
    def loss(weight):
        return float((patches @ weight.double().reshape(4, 45).T - wanted).square().sum())

    plain = network.second.weight[:, kept]
    assert loss(found.second.weight) - loss(best) < 0.05 * (loss(plain) - loss(best))


def test_weights_pruned_one_by_one_stay_zero(network, samples):
    sparse = tersor.prune(network, Prune(density=0.5)).model
    found = less_one(sparse, samples, repair=True)
    weight = found.model.second.weight
    assert found.masks["second.weight"].shape == weight.shape
    assert bool((weight[~found.masks["second.weight"]] == 0).all())
    assert not torch.equal(weight, less_one(sparse, samples, repair=False).model.second.weight)
