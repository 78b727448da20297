"""Physical removal against the masked network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tersor.errors import StructureError, UsageError
from tersor.structure import surgery
from tersor.structure.carried import manifest_of
from tersor.structure.groups import find_groups
from tersor.structure.surgery import shrink, shrink_where_possible
from tersor.structure.trace import trace
from tests.structure import hand
from tests.structure.hand import same, snapshot
from tests.zoo.catalogue import CATALOGUE
from tests.zoo.selection import by_l1

CASES = {
    "plain": (hand.Plain, hand.plain_groups, {"stem.weight": [1, 5, 6], "point.weight": [0]}, (2, 3, 8, 8)),
    "attention": (
        hand.Transformer,
        hand.transformer_groups,
        {"layers.0.qkv.weight": [2], "layers.1.qkv.weight": [0, 3]},
        (2, 5, 10),
    ),
    "lstm": (hand.Recurrent, hand.recurrent_groups, {"lstm": [0, 3], "embedding.weight": [2]}, None),
    "tied": (hand.Tied, hand.tied_groups, {"embedding.weight": [0, 4]}, None),
}


def made(case):
    torch.manual_seed(3)
    build, groups, selection, shape = CASES[case]
    model = hand.randomised(build())
    x = torch.randint(0, 11, (2, 7)) if shape is None else torch.randn(shape)
    return model, groups(), selection, x


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("inplace", [False, True])
def test_shrunk_network_equals_the_masked_one(case, inplace):
    model, groups, selection, x = made(case)
    masked = copy.deepcopy(model)
    hand.zeroed(masked, groups, selection)
    before = snapshot(model)
    small = shrink(model, selection, groups, trace(model, (x,)), inplace=inplace)
    assert (small is model) == inplace
    if not inplace:
        same(before, snapshot(model))
    torch.testing.assert_close(small(x), masked(x))
    torch.testing.assert_close(small(x[:1]), masked(x[:1]))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in masked.parameters())


@pytest.mark.parametrize("case", CASES)
def test_shrunk_network_trains(case):
    model, groups, selection, x = made(case)
    model.train()
    small = shrink(model, selection, groups, trace(model, (x,)))
    assert small.training
    optimizer = torch.optim.SGD(small.parameters(), 0.1, momentum=0.9)
    before = [p.clone() for p in small.parameters()]
    for _ in range(2):
        optimizer.zero_grad()
        small(x).square().mean().backward()
        optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, small.parameters(), strict=True)]
    reached = [bool(p.grad.abs().max() > 1e-6) for p in small.parameters()]  # a bias before a batch norm is not
    assert sum(reached) >= len(reached) - 2 and all(m for m, r in zip(moved, reached, strict=True) if r)


def test_attributes_of_standard_modules_follow():
    model, groups, selection, x = made("plain")
    small = shrink(model, selection, groups, trace(model, (x,)))
    assert (small.stem.out_channels, small.norm.num_features) == (5, 5)
    assert (small.depthwise.in_channels, small.depthwise.out_channels, small.depthwise.groups) == (5, 5, 5)
    assert (small.point.in_channels, small.point.out_channels, small.head.in_features) == (5, 5, 20)
    assert manifest_of(small).integers == {}


def test_integers_follow_where_needed_and_configs_are_not_shared():
    model, groups, selection, x = made("attention")
    small = shrink(model, selection, groups, trace(model, (x,)))
    first, second = small.layers
    assert (first.config.heads, first.inner, first.splits) == (3, 9, (9, 9, 9))
    assert (second.config.heads, second.inner, second.splits) == (2, 6, (6, 6, 6))
    assert first.config.head_dim == second.config.head_dim == 3
    assert model.config.heads == small.config.heads == 4
    assert small.config.sizes == [12, 12]


def test_ties_flags_and_gradients_stay():
    model, groups, selection, x = made("tied")
    model.middle.weight.requires_grad_(False)
    model(x).sum().backward()
    gradient = model.embedding.weight.grad
    small = shrink(model, selection, groups, trace(model, (x,)), inplace=True)
    assert small.head.weight is small.embedding.weight
    assert not small.middle.weight.requires_grad
    assert torch.equal(small.embedding.weight.grad, gradient[:, [1, 2, 3, 5]])
    assert small.middle.weight.grad is None


def test_channels_last_stays():
    model, groups, selection, x = made("plain")
    model = model.to(memory_format=torch.channels_last)
    small = shrink(model, selection, groups, trace(model, (x,)))
    assert small.stem.weight.is_contiguous(memory_format=torch.channels_last)


class Fixed(hand.Plain):
    """Its code has a constant that nothing can correct."""

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = self.point(torch.relu(self.depthwise(x.view(-1, 8, 8, 8))))
        return self.head(torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


@pytest.mark.parametrize("inplace", [False, True])
def test_failure_changes_nothing_and_names_group_module_and_op(inplace):
    torch.manual_seed(0)
    model, groups, x = hand.randomised(Fixed()), hand.plain_groups(), torch.randn(2, 3, 8, 8)
    model.stem.weight.requires_grad_(False)
    found, before = trace(model, (x,)), snapshot(model)
    with pytest.raises(StructureError, match=r"'stem.weight'.*Fixed.*view") as caught:
        shrink(model, {"stem.weight": [0]}, groups, found, inplace=inplace)
    assert caught.value.exit_code == 6
    same(before, snapshot(model))
    assert not model.stem.weight.requires_grad


def test_wrong_numbers_are_refused():
    model, _, _, x = made("plain")
    wrong = hand.plain_groups()
    stem = wrong.groups[0]
    members = tuple(m for m in stem.members if m.tensor != "point.weight")
    shifted = hand.Member("point.weight", 1, tuple(((u + 1) % 8,) for u in range(8)), "input")
    wrong = hand.groups(hand.Group(stem.name, stem.kind, 8, (*members, shifted), False))
    before = snapshot(model)
    with pytest.raises(StructureError, match="does not compute what the masked one does"):
        shrink(model, {"stem.weight": [2]}, wrong, trace(model, (x,)), inplace=True)
    same(before, snapshot(model))


def test_failing_groups_are_left_alone_on_request():
    torch.manual_seed(0)
    model, groups, x = hand.randomised(Fixed()), hand.plain_groups(), torch.randn(2, 3, 8, 8)
    found = shrink_where_possible(model, {"stem.weight": [0], "point.weight": [1, 2]}, groups, trace(model, (x,)))
    assert list(found.skipped) == ["stem.weight"]
    assert found.model.stem.out_channels == 8 and found.model.point.out_channels == 4
    assert model.point.out_channels == 6


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"stem.weight": range(8)}, "all 8 units of group 'stem.weight'"),
        ({"stem.weight": [8]}, "units 0 to 7"),
        ({"stem.weight": [-1]}, "units 0 to 7"),
        ({"stem": [0]}, "no group 'stem'"),
    ],
)
def test_bad_selections_are_refused(selection, message):
    model, groups, _, x = made("plain")
    with pytest.raises(UsageError, match=message):
        shrink(model, selection, groups, trace(model, (x,)))


def test_nothing_selected_is_a_copy():
    model, groups, _, x = made("plain")
    small = shrink(model, {"stem.weight": []}, groups, trace(model, (x,)))
    assert small is not model and not manifest_of(small)
    assert torch.equal(small(x), model(x))


def test_grouped_convolutions_lose_whole_groups_or_as_much_of_each():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 1, groups=4), nn.Conv2d(12, 2, 1))
    whole = hand.group(
        "0.weight",
        "channel",
        4,
        [
            hand.member("0.weight", 0, 4, of=2),
            hand.member("0.bias", 0, 4, of=2),
            hand.member("1.weight", 0, 4, of=3),
            hand.member("1.bias", 0, 4, of=3),
            hand.member("2.weight", 1, 4, "input", of=3),
        ],
    )
    x = torch.randn(2, 3, 4, 4)
    small = shrink(model, {"0.weight": [1]}, hand.groups(whole), trace(model, (x,)))
    assert (small[1].groups, small[1].in_channels, small[1].out_channels) == (3, 6, 9)
    each = tuple(tuple(3 * g + u for g in range(4)) for u in range(3))
    members = [hand.Member("1.weight", 0, each, "output"), hand.Member("1.bias", 0, each, "vector")]
    members.append(hand.Member("2.weight", 1, each, "input"))
    spread = hand.groups(hand.group("1.weight", "channel", 3, members))
    small = shrink(model, {"1.weight": [1]}, spread, trace(model, (x,)))
    assert (small[1].groups, small[1].in_channels, small[1].out_channels) == (4, 8, 8)
    uneven = hand.groups(hand.group("1.weight", "channel", 12, [hand.member("1.weight", 0, 12)]))
    with pytest.raises(StructureError, match=r"'1'.*all must keep as many"):
        shrink(model, {"1.weight": [1]}, uneven, trace(model, (x,)))


def test_of_groups_that_fail_alike_one_is_tried(monkeypatch):
    model, (args, _) = CATALOGUE["deit_s"].make()
    found = trace(model, args)
    groups = find_groups(found)
    tried = []
    real = surgery._tried

    def counted(model, selection, *rest):
        tried.append(sorted(selection))
        real(model, selection, *rest)

    monkeypatch.setattr(surgery, "_tried", counted)
    small = shrink_where_possible(model, by_l1(model, groups, 0.3), groups, found)
    heads = ["blocks.0.attn.qkv.weight", "blocks.1.attn.qkv.weight"]
    assert sorted(small.skipped) == [*heads, "patch_embed.weight"]
    assert small.skipped[heads[0]] is small.skipped[heads[1]]
    assert [len(names) for names in tried] == [5, 1, 1, 1, 2]
