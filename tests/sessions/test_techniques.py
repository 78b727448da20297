"""Every technique of training weights in a session: pruned on the way, finalized, saved, resumed."""

import copy

import pytest
import torch
from torch import nn

import tersor
from tersor.errors import UsageError
from tersor.pruning import Prune
from tersor.quantization import Palettize
from tersor.recipe import Recipe, Rule
from tersor.simulation import TrainedClusters
from tests.simulation.techniques import PAIRS, named
from tests.strategies import same_bits

pairs = pytest.mark.parametrize("pair", PAIRS, ids=named)
STEPS = 6


def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5), nn.BatchNorm1d(5)
    )


def prepared(model, pair):
    """Half of the linear layer is pruned from the first step on; the simulations begin at the second."""
    training, representation = pair
    late = type(training).from_dict({**training.to_dict(), "begin": 1, "rate": 0.01})
    rules = [Rule("*.weight", representation, train=late), Rule("4.weight", prune=Prune(density=0.5))]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.01)
    return tersor.prepare(model, Recipe(rules), optimizer=optimizer, steps=STEPS)


def run(model, session, end=STEPS):
    x = torch.randn(16, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    y = torch.arange(16) % 5
    while session.done < end:
        session.optimizer.zero_grad()
        session.loss(nn.functional.cross_entropy(model(x), y)).backward()
        session.optimizer.step()
        session.step()


@pairs
def test_the_file_holds_the_network(pair, tmp_path):
    model = build()
    session = prepared(model, pair)
    run(model, session)
    model.eval()
    simulated = {name: copy.deepcopy(model[int(name)].weight.detach()) for name in ("0", "4")}
    compressed = session.finalize()
    assert type(model[0]) is nn.Conv2d and not (model[4].weight != 0).sum() > 60
    tersor.save(compressed, tmp_path / "model.tsr")
    loaded = build()
    tersor.load(tmp_path / "model.tsr", into=loaded)
    for name, weight in simulated.items():
        assert same_bits(model[int(name)].weight.detach() + 0, weight + 0)
    for key, tensor in model.state_dict().items():
        assert same_bits(loaded.state_dict()[key], tensor)


@pairs
def test_a_resumed_run_ends_bit_by_bit(pair, tmp_path):
    whole, first, second = build(), build(), build()
    torch.manual_seed(5)
    session = prepared(whole, pair)
    run(whole, session)
    torch.manual_seed(5)
    half = prepared(first, pair)
    run(first, half, 3)
    half.save(tmp_path / "state")
    torch.manual_seed(9)
    again = prepared(second, pair)
    again.load(tmp_path / "state")
    run(second, again)
    assert all(same_bits(b, a) for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True))


@pairs
def test_recipes_name_it(pair):
    training, representation = pair
    recipe = Recipe([Rule("*.weight", representation, train=training)])
    assert Recipe.from_list(recipe.to_list()) == recipe


def test_errors_name_the_weight():
    rule = Rule("4.weight", Palettize(8), train=TrainedClusters())
    with pytest.raises(UsageError, match=r"4\.weight.*256 centroids for 120 weights"):
        tersor.prepare(build(), rule)
