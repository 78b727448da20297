"""Residual blocks dropped through `prune`: by name, by targets and criteria, in steps, and reloaded."""

import copy

import pytest
import torch
from torch import nn

import tersor
from tersor import Iterative, LayerByLayer, Prune, PruneBlocks, PruneChannels, TersorWarning
from tersor.errors import StructureError, UsageError
from tersor.structure.dropped import Dropped

X = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
BLOCKS = ("stage.0", "stage.1", "stage.3", "stage.4")


class Basic(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x):
        return torch.relu(self.shortcut(x) + self.conv2(torch.relu(self.conv1(x))))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.stage = nn.Sequential(Basic(4, 4), Basic(4, 4), Basic(4, 6), Basic(6, 6), Basic(6, 6))
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.stage(torch.relu(self.stem(x))).mean((2, 3)))


def build():
    """The branches of stage.1 and stage.4 add next to nothing."""
    torch.manual_seed(0)
    model = ResNet()
    with torch.no_grad():
        for number, scale in ((1, 1e-3), (4, 1e-2)):
            model.stage[number].conv2.weight.mul_(scale)
            model.stage[number].conv2.bias.mul_(scale)
    return model.eval()


def test_by_name():
    model = build()
    before = copy.deepcopy(model.state_dict())
    found = tersor.prune(model, PruneBlocks(names=("stage.3", "stage.0")), example_inputs=X[:1])
    assert found.blocks == ("stage.3", "stage.0") and "without the blocks stage.3, stage.0" in found.report()
    assert isinstance(found.model.stage[0], Dropped) and isinstance(found.model.stage[3], Dropped)
    assert found.after.macs < found.before.macs and found.to_dict()["blocks"] == ["stage.3", "stage.0"]
    assert torch.equal(found.model(X), model.head(model.stage[4](model.stage[2](model.stage[1](
        torch.relu(model.stem(X))))).mean((2, 3))))  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_those_that_change_the_outputs_least_go_first():
    assert tersor.prune(build(), PruneBlocks(count=1), calibration=[X[:4], X[4:]]).blocks == ("stage.1",)
    found = tersor.prune(build(), PruneBlocks(ratio=0.5), calibration=[X])
    assert found.blocks == ("stage.1", "stage.4")
    found = tersor.prune(build(), PruneBlocks(count=2, keep="stage.1.conv2.*"), calibration=[X])
    assert found.blocks[0] == "stage.4" and "stage.1" not in found.blocks
    labelled = [(X, torch.zeros(8, dtype=torch.long))]
    loss = lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1])  # noqa: E731
    assert tersor.prune(build(), PruneBlocks(count=1), calibration=labelled, loss=loss).blocks == ("stage.1",)


def test_by_weights_and_at_random():
    model = build()
    with torch.no_grad():
        for parameter in model.stage[3].parameters():
            parameter.mul_(0.1)
    assert tersor.prune(model, PruneBlocks(count=1, criterion="l1"), example_inputs=X).blocks == ("stage.3",)
    draws = [PruneBlocks(count=1, criterion="random", seed=seed) for seed in range(6)]
    assert len({tersor.prune(model, draw, example_inputs=X).blocks for draw in draws}) > 1


@pytest.mark.parametrize("target", ["macs", "parameters"])
def test_targets(target):
    found = tersor.prune(build(), PruneBlocks(**{target: 0.75}, criterion="l1"), example_inputs=X)
    left = getattr(found.after, target) / getattr(found.before, target)
    assert 0.3 < left <= 0.75 and 0 < len(found.blocks) < 4
    with pytest.raises(UsageError, match=r"target of .* cannot be met; without 4 blocks"):
        tersor.prune(build(), PruneBlocks(**{target: 0.1}, criterion="l1"), example_inputs=X)


def test_in_steps_with_channels_and_masks(tmp_path):
    configs = [PruneBlocks(ratio=0.5), PruneChannels(ratio=0.5, match="*.conv1.*"), Prune(density=0.5)]
    found = tersor.prune(build(), configs, calibration=[X], schedule=Iterative(steps=3))
    assert found.blocks == ("stage.1", "stage.4")
    left = [stage.conv1.out_channels for stage in found.model.stage if isinstance(stage, Basic)]
    assert left == [2, 3, 3] and found.units["stage.0.conv1.weight"] == (4, 2)
    assert not any(name.startswith(found.blocks) for name in (*found.units, *found.masks))
    tersor.save(tersor.compress(found.model, lossless=True), tmp_path / "small.tsr")
    again = ResNet().eval()
    tersor.load(tmp_path / "small.tsr", into=again)
    assert torch.equal(again(X), found.finalize()(X))
    every = tersor.prune(build(), PruneBlocks(count=4), calibration=[X], schedule=Iterative(steps=2))
    assert sorted(every.blocks) == list(BLOCKS) and len(every.rounds) == 2


def test_one_after_the_other_until_the_metric_falls():
    model = build()

    def evaluate(network):
        return 0.0 if torch.allclose(network(X), model(X), atol=0.05) else -1.0

    schedule = LayerByLayer(max_drop=0.5)
    with pytest.warns(TersorWarning, match="is left as it was"):
        found = tersor.prune(model, PruneBlocks(count=3), calibration=[X], evaluate=evaluate, schedule=schedule)
    assert found.blocks == ("stage.1", "stage.4") and len(found.rounds) == 3 and len(found.notes) == 1


def test_what_is_refused():
    for config, says in (
        (PruneBlocks(names=("stage.2",)), r"'stage\.2' is no residual block that can go; these can: stage\.0"),
        (PruneBlocks(names=("head.", "stage.0")), r"'head\.' is no residual block"),
        (PruneBlocks(count=5, criterion="l1"), r"5 blocks are to go, but only 4 blocks \(stage\.0, "),
        (PruneBlocks(count=1), "'divergence' needs calibration"),
    ):
        with pytest.raises(UsageError, match=says):
            tersor.prune(build(), config, example_inputs=X)
    with pytest.raises(StructureError, match=r"no residual block may go by match and keep; these could: stage\.0"):
        tersor.prune(build(), PruneBlocks(count=1, match="head.*"), calibration=[X])
    with pytest.raises(UsageError, match="prune_blocks needs example_inputs"):
        tersor.prune(build(), PruneBlocks(count=1))
    for options in ({}, {"count": 0}, {"count": 1, "macs": 0.5}, {"ratio": 1}, {"names": ("a",), "keep": "b"},
                    {"count": 1, "match": ()}, {"count": 1, "criterion": "beauty"}, {"names": (3,)}):  # fmt: skip
        with pytest.raises(UsageError, match="prune_blocks"):
            PruneBlocks(**options)
