"""Channels removed through `prune`: targets, floors, schedules, and masks that are cut with their weights."""

import copy

import pytest
import torch
from torch import nn

import tersor
from tersor import Prune, TersorWarning
from tersor.errors import StructureError, TersorError, UsageError
from tersor.pruning import PruneChannels
from tersor.shrinking.holding import masks_of
from tersor.shrinking.options import Iterative, LayerByLayer
from tersor.shrinking.prune import prune
from tests.zoo.catalogue import CATALOGUE

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A shortcut, a depthwise layer and a classifier: groups of 8 (of two layers), 12 and 16 units."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.expand = nn.Conv2d(8, 12, 1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.project = nn.Conv2d(12, 8, 1)
        self.head = nn.Linear(8, 16)
        self.classes = nn.Linear(16, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.project(torch.relu(self.depthwise(self.expand(x))))
        return self.classes(torch.relu(self.head(x.mean((2, 3)))))


def build():
    torch.manual_seed(0)
    return Net()


def units(found):
    return {name: left for name, (_, left) in found.units.items()}


def test_ratio_of_each_group():
    model = build()
    before = copy.deepcopy(model.state_dict())
    found = prune(model, PruneChannels(ratio=0.5), example_inputs=X)
    assert units(found) == {"stem.weight": 4, "expand.weight": 6, "head.weight": 8}
    assert found.model.stem.out_channels == found.model.project.out_channels == found.model.head.in_features == 4
    assert found.after.parameters < 0.5 * found.before.parameters and found.after.macs < 0.5 * found.before.macs
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert found.units["head.weight"] == (16, 8) and "head.weight" in found.report()
    assert found.model(X).shape == (2, 5)
    found.model(X).sum().backward()


def test_small_units_go_first():
    model = build()
    with torch.no_grad():
        model.head.weight[::2] *= 1e-3
    found = prune(model, PruneChannels(ratio=0.5, match="head.weight"), example_inputs=X)
    assert units(found) == {"head.weight": 8}
    assert torch.equal(found.model.head.weight, model.head.weight[1::2])


@pytest.mark.parametrize("scope", ["group", "global"])
@pytest.mark.parametrize("target", ["macs", "parameters"])
@pytest.mark.parametrize("share", [0.8, 0.4])
def test_targets_are_met_closely(scope, target, share):
    found = prune(build(), PruneChannels(scope=scope, **{target: share}), example_inputs=X)
    left = getattr(found.after, target) / getattr(found.before, target)
    assert 0.7 * share < left <= share


@pytest.mark.parametrize("balance", ["mean", "macs", "none"])
def test_groups_are_compared_by_balance(balance):
    model = build()
    with torch.no_grad():
        model.head.weight.mul_(10)
    options = PruneChannels(ratio=0.3, scope="global", balance=balance, match=("expand.*", "head.*"))
    found = prune(model, options, example_inputs=X)
    assert sum(a - b for a, b in found.units.values()) == round(0.3 * 28)
    # Units of the head are worth most as they are, and far more so for the few operations that each of them takes.
    assert ("head.weight" in found.units) == (balance == "mean")


def test_targets_out_of_reach():
    for target in ("macs", "parameters"):
        with pytest.raises(UsageError, match=rf"target of .* {'multiply' if target == 'macs' else target}.*cannot be"):
            prune(build(), PruneChannels(min_units=4, **{target: 0.01}), example_inputs=X)


def test_patterns_and_floors():
    found = prune(build(), PruneChannels(ratio=0.5, keep="project.*"), example_inputs=X)
    assert units(found) == {"head.weight": 8}
    with pytest.warns(TersorWarning) as told:
        found = prune(build(), PruneChannels(ratio=0.95, min_units=5), example_inputs=X)
    kept = ", ".join(f"{name} (5 units)" for name in found.units)
    assert [str(note.message) for note in told] == [f"more is kept than was asked for, by floors: {kept}"]
    assert found.notes == (str(told[0].message),)
    assert units(found) == {"stem.weight": 5, "expand.weight": 5, "head.weight": 5}
    found = prune(build(), PruneChannels(ratio=0.4, round_to=4), example_inputs=X)
    assert units(found) == {"expand.weight": 8, "head.weight": 12}
    with pytest.warns(TersorWarning, match=r"head\.weight \(1 units\)"):
        found = prune(build(), PruneChannels(ratio=0.99, match="head.weight"), example_inputs=X)
    assert units(found) == {"head.weight": 1}


def test_masks_are_cut_with_their_weights():
    model = build()
    found = prune(model, [Prune(density=0.5), PruneChannels(ratio=0.5)], example_inputs=X)
    sparse = prune(model, Prune(density=0.5))
    again = prune(sparse.model, PruneChannels(ratio=0.5), example_inputs=X)
    for result in (found, again):
        assert all(mask.shape == result.finalize().get_parameter(name).shape for name, mask in result.masks.items())
        assert torch.equal(result.model.head.weight != 0, result.masks["head.weight"])
    assert torch.equal(found.model(X), again.model(X))
    assert masks_of(sparse.model)["head.weight"].shape == (16, 8)


def test_files_of_what_is_left(tmp_path):
    found = prune(build(), [PruneChannels(ratio=0.5), Prune(density=0.5)], example_inputs=X)
    tersor.save(tersor.compress(found.model, lossless=True), tmp_path / "small.tsr")
    again = Net().eval()
    tersor.load(tmp_path / "small.tsr", into=again)
    assert torch.equal(again(X), found.finalize().eval()(X)) and again.head.out_features == 8


def test_the_criterion_may_look_at_samples():
    model = build()
    with torch.no_grad():
        model.head.bias[4:] = 1.0
        model.head.bias[:4] = -100.0  # never active, though their weights are as large as the others'
    for criterion in ("apoz", "mean_activation", "entropy", "taylor"):
        found = prune(
            model, PruneChannels(ratio=0.25, match="head.*", criterion=criterion), calibration=[X, X + 1], seed=1
        )
        assert torch.equal(found.model.head.bias, model.head.bias[4:]), criterion
    with pytest.raises(UsageError, match=r"apoz.*calibration"):
        prune(model, PruneChannels(ratio=0.25, criterion="apoz"), example_inputs=X)


def test_in_steps_and_layer_by_layer():
    once = prune(build(), PruneChannels(ratio=0.5), example_inputs=X)
    steps = prune(build(), PruneChannels(ratio=0.5), example_inputs=X, schedule=Iterative(steps=3))
    assert units(steps) == units(once) and len(steps.rounds) == 3
    assert steps.rounds[0].costs.macs > steps.rounds[1].costs.macs > steps.after.macs == once.after.macs
    early = prune(build(), PruneChannels(ratio=0.9), example_inputs=X, schedule=Iterative(steps=8, macs=0.5))
    assert early.after.macs <= 0.5 * early.before.macs < early.rounds[-2].costs.macs
    layers = prune(build(), PruneChannels(macs=0.5), example_inputs=X, schedule=LayerByLayer())
    assert layers.after.macs <= 0.5 * layers.before.macs and len(layers.rounds) == 3
    assert units(layers) == units(prune(build(), PruneChannels(macs=0.5), example_inputs=X))


def test_hidden_units_of_recurrent_networks():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.lstm, self.tags = nn.Embedding(20, 6), nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 4)

        def forward(self, tokens):
            return self.tags(self.lstm(self.embedding(tokens))[0])

    tokens = torch.arange(10).reshape(2, 5)
    found = prune(Tagger(), [Prune(density=0.5, parts=1), PruneChannels(ratio=0.5)], example_inputs=tokens)
    assert found.model.lstm.hidden_size == 4 and found.masks["lstm.weight_hh_l0"].shape == (16, 4)
    held, mask = found.model.lstm.weight_hh_l0, found.masks["lstm.weight_hh_l0"]
    assert torch.equal(found.finalize()(tokens), found.model(tokens)) and (held[~mask] == 0).all()


def test_in_place():
    model = build()
    found = prune(model, PruneChannels(ratio=0.5), example_inputs=X, inplace=True)
    assert found.model is model and model.head.out_features == 8 and isinstance(model, Net)


def test_what_is_refused():
    model = build()
    with pytest.raises(UsageError, match="example_inputs"):
        prune(model, PruneChannels(ratio=0.5))
    with pytest.raises(StructureError, match=r"no group of channels.*Frozen"):
        prune(model, PruneChannels(ratio=0.5, keep="*"), example_inputs=X)
    with pytest.raises(
        StructureError, match=r"match: classes\.weight names no tensor .*: stem\.weight, .*head\.weight"
    ):
        prune(model, PruneChannels(ratio=0.5, match="classes.weight"), example_inputs=X)
    for options in (
        {},
        {"ratio": 0.0},
        {"ratio": 1.0},
        {"ratio": -0.5},
        {"macs": 2},
        {"ratio": 0.5, "macs": 0.5},
        {"ratio": 0.5, "scope": "all"},
        {"ratio": 0.5, "balance": "size"},
        {"ratio": 0.5, "match": ()},
        {"ratio": 0.5, "keep": (3,)},
        {"ratio": 0.5, "round_to": 0},
        {"ratio": 0.5, "on_failure": "ignore"},
    ):
        with pytest.raises(UsageError, match="prune_channels"):
            PruneChannels(**options)
    with pytest.raises(UsageError, match="criterion"):
        prune(model, PruneChannels(ratio=0.5, criterion="beauty"), example_inputs=X)


def test_networks_that_cannot_be_followed():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(x) if bool((x.sum() > 0).item()) else x

    with pytest.raises(TersorError, match="trace"):
        prune(Branching(), PruneChannels(ratio=0.5), example_inputs=torch.randn(2, 4))


def test_heads_as_wide_as_their_input_says():
    model, (args, _) = CATALOGUE["deit_s"].make()
    with pytest.warns(TersorWarning, match="a multiple of 1/4: the network takes the width of its heads"):
        found = prune(model, PruneChannels(ratio=0.3, normalised=True), example_inputs=args)
    assert {left / before for before, left in found.units.values()} == {0.75} and len(found.units) == 5
    assert found.model(*args).shape == (args[0].shape[0], 10)
    with pytest.raises(StructureError, match="InputSizedAttention"):
        prune(model, PruneChannels(ratio=0.3, match="blocks.0.attn.qkv.weight"), example_inputs=args)
