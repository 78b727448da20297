"""Residual blocks that are dropped whole."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor, nn

import tersor
from tersor.errors import StructureError, UsageError
from tersor.structure.blocks import drop_blocks, droppable
from tersor.structure.carried import carry, manifest_of
from tersor.structure.cuts import Cut
from tersor.structure.dropped import Dropped
from tersor.structure.edits import Edits
from tersor.structure.manifest import Manifest, apply_manifest
from tests.structure import hand


class Basic(nn.Module):
    """relu(x + f(x)), in place, as in ResNets; a stride has a shortcut of its own."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.relu(self.conv1(x)))
        out += self.shortcut(x)
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.stage = nn.Sequential(Basic(4, 4), Basic(4, 4), Basic(4, 6, 2), Basic(6, 6))
        self.plain = nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.plain(self.stage(self.stem(x))).mean((2, 3)))


class PreNorm(nn.Module):
    """Two sums, called with more than its input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)

    def forward(self, x: Tensor, scale: float, *, shift: Tensor) -> Tensor:
        x = x + self.first(self.norm(x)) * scale
        return x + self.second(x) + shift * 0


class PostNorm(PreNorm):
    def forward(self, x: Tensor, scale: float, *, shift: Tensor) -> Tensor:
        return self.norm(x + self.first(x))


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([PreNorm(), PostNorm(), PreNorm()])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, 2.0, shift=x)
        return x


def made():
    torch.manual_seed(0)
    return ResNet().eval(), torch.randn(2, 3, 8, 8)


def test_candidates_are_blocks_that_hand_on():
    model, x = made()
    # The first block's input is negative in places, which its last ReLU would change.
    assert droppable(model, (x,)) == ("stage.1", "stage.3")
    torch.manual_seed(0)
    assert droppable(Layers().eval(), (torch.randn(2, 4, 6),)) == ("layers.0", "layers.2")


@pytest.mark.parametrize("inplace", [False, True])
def test_dropped_blocks_hand_on_and_reload(inplace):
    model, x = made()
    zero = made()[0]
    with torch.no_grad():
        for block in (zero.stage[1], zero.stage[3]):
            block.conv2.weight.zero_()
            block.conv2.bias.zero_()
    small = drop_blocks(model, ["stage.1", "stage.3"], (x,), inplace=inplace)
    assert (small is model) == inplace and isinstance(small.stage[1], Dropped)
    torch.testing.assert_close(small(x), zero(x))
    assert inplace or isinstance(model.stage[1], Basic)
    file = io.BytesIO()
    tersor.save(tersor.compress(small, lossless=True), file)
    fresh = ResNet().eval()
    tersor.load(io.BytesIO(file.getvalue()), into=fresh)
    assert torch.equal(fresh(x), small(x))
    assert tersor.inspect(io.BytesIO(file.getvalue())).structure == "2 blocks dropped"
    small.train()(x).sum().backward()


def test_blocks_go_before_and_after_cuts():
    model, x = made()
    edits = Edits()
    cuts = {
        (f"stage.{i}.{name}", dim): Cut(4, (1,))
        for i in (0, 1)
        for name, dim in (("conv1.weight", 0), ("conv1.bias", 0), ("conv2.weight", 1))
    }
    first = Manifest(cuts=cuts)
    apply_manifest(model, first, edits)
    carry(model, first, edits)
    small = drop_blocks(model, ["stage.1"], (x,))
    manifest = manifest_of(small)
    assert manifest.blocks == ("stage.1",) and {name.split(".")[1] for name, _ in manifest.cuts} == {"0"}
    fresh = ResNet().eval()
    apply_manifest(fresh, manifest)
    fresh.load_state_dict(small.state_dict())
    assert torch.equal(fresh(x), small(x))


@pytest.mark.parametrize("names", [["stage.0"], ["stem"], ["nothing"], ["stage.1", "stage.1"], ["stage.1.conv1"]])
def test_other_names_are_refused(names):
    model, x = made()
    before = hand.snapshot(model)
    with pytest.raises(UsageError, match=names[0]):
        drop_blocks(model, names, (x,), inplace=True)
    hand.same(before, hand.snapshot(model))


class Asks(ResNet):
    """Its code asks a block for what only the block has."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.stage[1].conv1.out_channels


def test_a_network_that_needs_its_block_is_refused():
    torch.manual_seed(0)
    model, x = Asks().eval(), torch.randn(2, 3, 8, 8)
    before = hand.snapshot(model)
    with pytest.raises(StructureError, match=r"without stage.1 the model does not run"):
        drop_blocks(model, ["stage.1"], (x,), inplace=True)
    hand.same(before, hand.snapshot(model))


def test_inputs_that_do_not_run_are_refused():
    with pytest.raises(StructureError, match="does not run"):
        droppable(made()[0], (torch.randn(2, 5, 8, 8),))
